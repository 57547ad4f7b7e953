"""The part of a chat template that writes a message's content, which is a text or a list of transformers' parts.

For programs that use the template alone, it gives the text that `vlmlaw.tokens.prompt` makes of parts: an image stands
on a line of its own, texts follow one another.
"""

MESSAGE_CONTENT = (
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] != 'text' or part['text'] %}"
    "{% if not loop.first and not (part['type'] == 'text' and loop.previtem['type'] == 'text') %}{{ '\\n' }}{% endif %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}<image>{% endif %}{% endfor %}{% endif %}"
)
