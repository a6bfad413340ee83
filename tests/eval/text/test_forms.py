"""The form of prompts in several scripts, by their end alone."""

import pytest

from eval.text.forms import form_of

QUESTIONS = [
    "How do I grond a vask?",
    "My vask is red. Why is it red?",
    "Is that so?!",
    "May I (really?)",
    "Where is it?  \n",
    "**Which one?**",
    "Is it done? \U0001f642",
    "Who shouted 'no'?",
    '"Who is there?"',
    "\u00ab\u041a\u0442\u043e \u0442\u0430\u043c?\u00bb",  # one quotation from end to end
    "\u9019\u662f\u4ec0\u9ebc\uff1f",
    "\u0645\u0627 \u0647\u0630\u0627\u061f",
    "\u03a4\u03b9 \u03b5\u03af\u03bd\u03b1\u03b9 \u03b1\u03c5\u03c4\u03cc;",  # Greek
    "\u053b\u055e\u0576\u0579 \u0567 \u057d\u0561\u0589",  # Armenian: over the word that asks
    "\u12ed\u1205 \u121d\u1295\u12f5\u1295 \u1290\u12cd\u1367",  # Ethiopic
]
ORDERS = [
    "Grond the vask.",
    "What is a vask? Write a page on it.",
    "Translate 'who are you?'",
    "Translate this: \u00abwho are you?\u00bb.",
    "int x = 1;",
    "How do I grond a vask",
    "",
    "...",
    "\u053b\u055e\u0576\u0579 \u0567 \u057d\u0561\u0589 \u0533\u0580\u056b\u0580\u0589",
]


@pytest.mark.parametrize("prompt", QUESTIONS)
def test_questions(prompt: str) -> None:
    assert form_of(prompt) == "question"


@pytest.mark.parametrize("prompt", ORDERS)
def test_orders(prompt: str) -> None:
    assert form_of(prompt) == "order"
