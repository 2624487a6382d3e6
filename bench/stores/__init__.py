"""What each store can do: publishing, carriage between nodes, clients that come back."""
