"""What the ladder of xcvae is measured against, and the bench that measures both alike.

Nothing here is part of the package: the references are compact, in plain torch, and as good as
they could be made in the same time on the same device.
"""
