"""What lies in the ledger folder; durable rows."""
