"""One module a revision; each says which it follows."""
