"""What a program holds in its hand: sessions against a server or in this process."""
