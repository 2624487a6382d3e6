"""The HTTP API, as Centrifugo's clients speak it: publish, broadcast, and what concerns connections and channels."""
