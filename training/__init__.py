"""The workstation side: data, augmentation, models, fitting, evaluation."""
