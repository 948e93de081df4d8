"""The whole service under fire: real processes on a real Kafka, killed and cut off, their outputs folded again."""
