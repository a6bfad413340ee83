"""What an answer is: refused, harmful, broken or right; imports texts and answers."""
