"""The publish process: sends the rows of the ledger until the archive has them."""
