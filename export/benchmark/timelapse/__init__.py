"""What following cells over time brings and costs."""
