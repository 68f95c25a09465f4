"""The Edge TPU: operator rules, partition, compiled files, the compiler. Needs numpy only."""
