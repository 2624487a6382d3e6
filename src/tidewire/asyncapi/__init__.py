"""What an application says of its channels: the AsyncAPI document, its page, and the types of clients."""
