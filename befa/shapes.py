"""The legend of axis letters, used in signatures and as suffixes of tensor names.

| letter | axis |
|---|---|
| U | users |
| I | items |
| N | nodes of the user-item graph: users first, then items |
| E | edges, i.e. training interactions |
| B | rows of a batch |
| K | ranked positions |
| d | width of ids and projected content |
| c | width of an encoder's features |
| H, W | height and width of a picture |
| L | tokens of a text |

`z_Nd = adj_NN @ z_Nd` thus reads: nodes by width. Signatures carry the same letters
(`Float[Tensor, "N d"]`, from jaxtyping); they are checked under pytest and cost nothing elsewhere.
"""
