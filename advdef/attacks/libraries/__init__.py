"""Attacks of other libraries, with our signature; what they find is judged again here."""
