"""The HTTP API, as Centrifugo's clients speak it: publish, broadcast, and calls for connections and channels."""
