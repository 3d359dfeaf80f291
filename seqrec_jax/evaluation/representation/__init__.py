"""What the vectors of users and items are like, what they know, and how two models differ in them."""
