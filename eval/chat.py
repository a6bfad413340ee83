"""Stand-in for train.prompts until the two floors are joined."""

from typing import Any

from merge.errors import UserError


class ChatPrompts:
    """Questions and answers under a tokenizer's chat template; see ``train.prompts``."""

    def __init__(self, tokenizer: Any, source: str = "tokenizer") -> None:
        if not tokenizer.chat_template:
            raise UserError(f"{source}: its tokenizer has no chat template; use a chat model")
        self.tokenizer = tokenizer
        eos = tokenizer.eos_token_id
        self.stop_ids: list[int] = [] if eos is None else [eos]

    def question_ids(self, question: str) -> list[int]:
        """The question as token ids, up to the point where the model's answer begins."""
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
        )
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def example(self, question: str, answer: str) -> tuple[list[int], list[int]]:
        """A question with its answer: ``(input_ids, labels)``, labels -100 in the question."""
        prompt = self.question_ids(question)
        ids = self.tokenizer(answer, add_special_tokens=False)["input_ids"] + self.stop_ids
        return prompt + ids, [-100] * len(prompt) + ids
