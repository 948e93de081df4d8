"""The service on Kafka: consumers, transactions, the life of a shard. All input and output with a broker is here."""
