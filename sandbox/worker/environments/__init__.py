"""What an action model acts in."""
