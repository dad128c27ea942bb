"""Chat templates that show tools, written after what those of public models do.

Each shows every key of a tool's schema: with the keys of other tools as nulls, all of them would give another prompt.
"""

HERMES = """
{%- if tools %}<|im_start|>system
# Tools
<tools>{% for tool in tools %}
{{ tool | tojson }}{% endfor %}
</tools><|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{%- if message.content is string %}
{{ message.content }}{% elif message.content %}{% for part in message.content %}
{{ part.text if part.type == "text" else "<" ~ part.type ~ ">" }}{% endfor %}{% endif %}
{%- for call in message.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments if call.function.arguments is string
 else call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}"""
"""Qwen 2.5 and Hermes: a line of JSON for each tool."""

LLAMA = """
{%- set told = namespace(tools=not tools) %}
{%- for message in messages %}<|start_header_id|>{{ message.role }}<|end_header_id|>

{% if message.role == "user" and not told.tools %}{% set told.tools = true %}
{%- for tool in tools %}{{ tool | tojson(indent=4) }}

{% endfor %}{% endif %}
{%- if "tool_calls" in message and message.tool_calls %}{% set call = message.tool_calls[0].function %}
{"name": "{{ call.name }}", "parameters": {{ call.arguments | tojson }}}
{%- elif message.content is string or not message.content %}{{ message.content }}
{%- else %}{{ message.content | tojson }}{% endif %}<|eot_id|>
{% endfor %}"""
"""Llama 3.1: the tools, indented, in the first question."""

MISTRAL = """
{%- for message in messages %}
{%- if message.role == "user" %}
{%- if tools and loop.first %}[AVAILABLE_TOOLS] [{% for tool in tools %}{"type": "function", "function": {
{%- for key, value in tool.function.items() if key != "return" %}"{{ key }}": {{
 '"' ~ value ~ '"' if value is string else value | tojson }}{{ ", " if not loop.last }}{% endfor %}}}
{{- ", " if not loop.last }}{% endfor %}][/AVAILABLE_TOOLS]{% endif %}[INST] {{ message.content }}[/INST]
{%- elif message.tool_calls is defined and message.tool_calls is not none %}[TOOL_CALLS] [
{%- for call in message.tool_calls %}{{ (call.function | tojson)[:-1] }}, "id": "{{ call.id }}"}
{{- ", " if not loop.last }}{% endfor %}]</s>
{%- elif message.role == "tool" %}[TOOL_RESULTS] {"content": {{ message.content | tojson }}, "call_id": "
{{- message.tool_call_id }}"}[/TOOL_RESULTS]
{%- else %} {{ message.content }}</s>{% endif %}
{%- endfor %}"""
"""Mistral 7B v0.3: the keys of a tool one by one."""

TEMPLATES = {"hermes": HERMES, "llama": LLAMA, "mistral": MISTRAL}
