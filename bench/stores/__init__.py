"""What each store can do: publishing, delivery between nodes, clients that come back."""
