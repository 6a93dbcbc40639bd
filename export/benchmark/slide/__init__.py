"""How exactly a whole slide is counted."""
