"""A pipeline that needs nothing but Python: it makes reads from the sample's name, and works on them."""
