"""The brokers that tests run against: a real Kafka node, and a small fake one that fails where it is told to."""
