"""From a fitted model to a bundle, and to figures of its speed."""
