"""The layouts of labelled data sets, one file each; they read and do not interpret."""
