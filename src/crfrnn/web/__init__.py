"""The page of `crfrnn web`: a photo, a network, and a CRF that changes the picture as its parameters move.

`controls` makes controls of the specification, `uploads` reads what strangers send, `desk` has what a user works on,
`drawn` what the page shows of it, `notices` what is doubtful about it; `visits` keeps that apart for each of several
users, `turns` says who computes when, and `guard` refuses requests. None of them knows Gradio. `page` lays all of it
out in Gradio, and `server` serves the page.
"""
