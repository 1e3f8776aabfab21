"""A little of everything that models are given, for a calibration that has no text of its own."""

SAMPLE_TEXT = """\
The harbour was quiet at that hour. Two boats lay against the wall, and a man in a wool cap was mending a \
net with a needle of bone; he did not look up when the children ran past him. "They will be late for school \
again," he said to nobody, and pulled the knot tight.

Water boils at 100 degrees Celsius at sea level, but at lower temperatures on a mountain, because the air \
above it presses less. In 1647 Blaise Pascal asked his brother-in-law to carry a barometer up the Puy de \
Dome: the mercury fell by 8 centimetres over some 970 metres of height.

def moving_average(values, width):
    \"\"\"Means of every `width` neighbours.\"\"\"
    total = sum(values[:width])
    means = [total / width]
    for new, old in zip(values[width:], values):
        total += new - old
        means.append(total / width)
    return means

Question: A shop sells pens at 3 for $2.40. How much do 7 pens cost?
Answer: One pen costs 2.40 / 3 = 0.80 dollars, so 7 pens cost 7 x 0.80 = 5.60 dollars.

User: Can you suggest a name for a small bakery?
Assistant: Of course! Here are a few ideas:
1. The Early Crumb
2. Flour & Salt
3. Corner Oven

{"name": "octavo", "sizes": [8, 16, 32], "nested": {"ok": true, "ratio": 0.125}, "note": null}

El tren salió de la estación a las siete y media. Les enfants jouent dans le jardin depuis ce matin. Der Zug \
nach Hamburg hat heute zwanzig Minuten Verspätung. 今天的天气很好，我们去公园散步吧。

<p class="lead">Sign up <a href="https://example.com/join">here</a> before 31 March to get 20% off.</p>
"""
