"""What the tests of the ring and their child process share."""

# The largest numbered message is about twice the smaller rings' size.
LARGE = 150_000
CAPACITY = 65_536
