"""Episodes of robots: where they come from, how their values are scaled, and the windows that training reads."""
