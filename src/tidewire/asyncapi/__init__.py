"""The description of an application's channels: the AsyncAPI document, its page, and the types of clients."""
