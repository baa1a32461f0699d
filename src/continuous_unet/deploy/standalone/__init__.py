"""Files that are shipped with every export and run without this package."""
