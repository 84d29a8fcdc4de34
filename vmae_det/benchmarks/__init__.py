"""How fast the toolkit is, and how much memory it takes; each benchmark makes its own data."""
