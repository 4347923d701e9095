"""Attacks of other libraries with the signature of ours; what they find is judged again here."""
