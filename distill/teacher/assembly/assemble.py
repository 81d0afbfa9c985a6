"""Converts replies to rows: parsing, voting, selection, provenance."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from distill.tasks import metrics
from distill.tasks.records import REPLY, UNDECIDED, Record
from distill.teacher.assembly import rows, selection, voting
from distill.teacher.assembly.asked import Collected, PromptedRow
from distill.teacher.assembly.selection import Rules, Sieve
from distill.teacher.assembly.voting import Answer, Vote
from distill.teacher.clients.replies import Failure, Reply, Request, Usage
from distill.teacher.prompts import parsing
from distill.teacher.prompts.parsing import Said
from distill.teacher.prompts.prompt import Prompt

ARGUES_OTHERWISE = "argues for another answer than the given one"
MISFIT = "the input does not fit the prompt"
TIED = "the vote is tied: of the labels with most votes, the first is taken"
UNDECIDED_KEPT = "a rationale without a single answer is kept beside the vote"


class Assembly:
    """Builds output rows; counts and keeps failures and dropped rationales.

    Args:
      prompt: the prompt.
      rules: the selection rules.
      answer: how answers are compared.
      as_json: teacher → whether its replies are JSON.
      labels: the possible labels, or empty; see :func:`distill.teacher.prompts.labels.known_labels`.
      keep_replies: put raw replies into the provenance.

    Attributes:
      failures: one JSON object per unreadable reply, per failed request and per input without a request, in each row;
        its ``kind`` is ``undecided`` for a reply with a rationale and no answer, and else ``reply``.
      compared, agreed: rows with gold label and vote; those where they agree.
      rationalised: rows with a rationale for a given answer.
    """

    def __init__(
        self,
        *,
        prompt: Prompt,
        rules: Rules,
        answer: metrics.AnswerKind,
        as_json: Mapping[str, bool],
        labels: Sequence[str] = (),
        keep_replies: bool = False,
    ):
        self.prompt, self.rules, self.answer = prompt, rules, answer
        self.as_json, self.labels, self.keep_replies = as_json, tuple(labels), keep_replies
        self.failures: list[dict[str, Any]] = []
        self.compared = self.agreed = self.rationalised = 0
        self._unreadable: dict[tuple[str, int], str] = {}  # request's key and sample → reason
        self._dropped: collections.Counter[str] = collections.Counter()
        self._noticed: collections.Counter[str] = collections.Counter()
        self._worked = {metrics.same_text_key(example.input) for example in prompt.examples}
        self._noted: set[int] = set()
        self._read: dict[tuple[str, str], list[Said]] = {}

    def counts(self) -> dict[str, dict[str, int]]:
        """``unreadable``, ``dropped`` and ``noticed`` by reason, most frequent first."""
        return {
            "unreadable": dict(collections.Counter(self._unreadable.values()).most_common()),
            "dropped": dict(self._dropped.most_common()),
            "noticed": dict(self._noticed.most_common()),
        }

    def same(self, record: Record, a: str, b: str) -> bool:
        """Whether two labels of a row are the same answer; an equation without a value equals only itself."""
        return a == b or metrics.same_answer(self.answer, a, b, record.choices)

    def is_right(self, row: PromptedRow, collected: Collected, teachers: Sequence[str]) -> bool:
        """Whether the vote is the gold label."""
        label = self._vote(row, self._answers(row, row.requests, collected, teachers)).label
        return label is not None and row.record.label is not None and self.same(row.record, row.record.label, label)

    def rows(
        self, asked: Sequence[PromptedRow], collected: Collected, teachers: Sequence[str], prefix: str = ""
    ) -> list[dict[str, Any]]:
        """Output rows, in the order of the input.

        Args:
          asked: rows with their requests.
          collected: their outcomes.
          teachers: names of the teachers to include.
          prefix: stored in every row.
        """
        sieve = Sieve(self.rules)
        values = [value for row in asked if (value := self._row(row, collected, teachers, sieve, prefix)) is not None]
        self._dropped += sieve.dropped
        self._noticed += sieve.seen
        return values

    def _answers(
        self, row: PromptedRow, requests: Sequence[Request], collected: Collected, teachers: Sequence[str]
    ) -> list[Answer]:
        answers = []
        for request in requests:
            reply = collected.replies.get(request.key)
            if request.teacher not in teachers or reply is None:
                continue
            # Rows with the same input share replies but may have different choices.
            where = (request.key, row.record.id)
            if where not in self._read:
                json_wanted = self.as_json[request.teacher]
                self._read[where] = [
                    parsing.read_candidate(self.prompt, candidate, row.record, as_json=json_wanted, labels=self.labels)
                    for candidate in reply.candidates
                ]
                for n, said in enumerate(self._read[where]):
                    if said.failure is not None:
                        self._unreadable.setdefault((request.key, n), said.failure.reason)
            answers += [Answer(request.teacher, request.sample + n, said) for n, said in enumerate(self._read[where])]
        return answers

    def _vote(self, row: PromptedRow, answers: Sequence[Answer]) -> Vote:
        return voting.vote(answers, lambda a, b: self.same(row.record, a, b))

    def _row(
        self, row: PromptedRow, collected: Collected, teachers: Sequence[str], sieve: Sieve, prefix: str
    ) -> dict[str, Any] | None:
        record = row.record
        first_time = id(row) not in self._noted
        self._noted.add(id(row))
        if first_time:
            self._notice(row)
        answers = self._answers(row, row.requests, collected, teachers)
        told = self._answers(row, row.told, collected, teachers)
        self._note_failures(row, collected, teachers, answers, told)
        vote = self._vote(row, answers)
        label, kept = vote.label, self._agreeing(answers, vote)
        if vote.tied:
            self._noticed[TIED] += 1
        if vote.voters and vote.share < self.rules.least_share:
            self._dropped["too little agreement among the samples"] += 1
            label, kept = None, []
        argued = self._argued(record, told)
        if record.label is not None and label is not None:
            self.compared += 1
            agrees = self.same(record, record.label, label)
            self.agreed += agrees
            if not agrees and not argued:
                if self.rules.on_disagreement == "drop_row":
                    self._dropped["row: the teacher disagrees with the gold label"] += 1
                    return None
                if self.rules.on_disagreement == "drop_rationale" and kept:
                    self._dropped["the teacher disagrees with the gold label"] += 1
                    kept = []
        was_told = bool(argued)
        kept = argued or kept
        texts = [(answer.said.rationale or "", self._leak(record, answer, label, was_told)) for answer in kept]
        stay = sieve.row(texts)
        rationales = [texts[n][0] for n in stay]
        self.rationalised += bool(was_told and rationales)
        if label is None and record.label is None and not rationales and self.rules.drop_empty_rows:
            self._dropped["row: neither label nor rationale"] += 1
            return None
        share = vote.share if self.rules.weight_by_agreement and label is not None else 1.0
        result = dataclasses.replace(
            record,
            llm_label=label,
            rationales=tuple(rationales),
            rationale_teachers=(),  # provenance.rationales_by names them
            weight=record.weight * share,
            label_votes=vote.counts if len(vote.counts) > 1 else (),
            provenance={},
        )
        provenance = self._provenance(row, collected, teachers, vote)
        if was_told and rationales:
            provenance["rationalised"] = True
        if len(rationales) > 1 or len(teachers) > 1:
            provenance["rationales_by"] = [[kept[n].teacher, kept[n].sample] for n in stay]
        return rows.row_of(result, provenance, prefix)

    def _notice(self, row: PromptedRow) -> None:
        if row.misfit:
            self.failures.append(_failure(row.record, Failure(MISFIT, row.misfit), {"kind": REPLY}))
        texts = (row.record.input, *row.record.choices)
        if any(self.prompt.imitates_template(text) for text in texts):
            self._noticed["the input has lines that look like the prompt's own (indented in the prompt)"] += 1
        if metrics.same_text_key(row.record.input) in self._worked:
            self._noticed["the input is a worked example of the prompt"] += 1

    def _agreeing(self, answers: Sequence[Answer], vote: Vote) -> list[Answer]:
        with_rationale = [answer for answer in answers if answer.said.rationale]
        if self.rules.keep == "all" or not vote.voters:
            return with_rationale
        supporters, kept = set(map(id, vote.supporters)), []
        for answer in with_rationale:
            if id(answer) in supporters:
                kept.append(answer)
            elif answer.said.label is not None:
                self._dropped["argues against the vote"] += 1
            elif answer.said.failure is not None and answer.said.failure.reason == parsing.OUTSIDE:
                self._dropped["argues for an answer that is none of the labels, against the vote"] += 1
            else:
                self._noticed[UNDECIDED_KEPT] += 1
                kept.append(answer)
        return kept

    def _argued(self, record: Record, told: Sequence[Answer]) -> list[Answer]:
        """The second-round rationales that argue for the given answer."""
        kept = []
        for answer in told:
            if not answer.said.rationale:
                continue
            label = answer.said.label
            if label is not None and record.label is not None and self.same(record, record.label, label):
                kept.append(answer)
            else:
                self._dropped[ARGUES_OTHERWISE] += 1
        return kept

    def _leak(self, record: Record, answer: Answer, label: str | None, told: bool) -> str | None:
        return selection.leak(
            answer.said.rationale or "",
            record.label if told else answer.said.label or label,
            marker=self.prompt.marker,
            hint_words=self.prompt.hint_words,
            told=told,
        )

    def _note_failures(
        self,
        row: PromptedRow,
        collected: Collected,
        teachers: Sequence[str],
        answers: Sequence[Answer],
        told: Sequence[Answer],
    ) -> None:
        record = row.record
        for purpose, group in (("explain", answers), ("rationalise", told)):
            for answer in group:
                if answer.said.failure is not None:
                    kind = UNDECIDED if answer.said.rationale else REPLY
                    where = {"kind": kind, "teacher": answer.teacher, "sample": answer.sample, "purpose": purpose}
                    self.failures.append(_failure(record, answer.said.failure, where))
        self.failures += failed_requests(row, collected, teachers)

    def _provenance(
        self, row: PromptedRow, collected: Collected, teachers: Sequence[str], vote: Vote
    ) -> dict[str, Any]:
        asked = []
        for teacher in teachers:
            pairs = [
                (request, collected.replies[request.key])
                for request in (*row.requests, *row.told)
                if request.teacher == teacher and request.key in collected.replies
            ]
            if pairs:
                asked.append(self._by_teacher(teacher, pairs))
        provenance: dict[str, Any] = {
            "prompt": self.prompt.name,
            "prompt_hash": self.prompt.hash[:16],
            "answer": self.answer,
            "teachers": asked,
        }
        where = {name: row.record.provenance[name] for name in ("file", "line") if name in row.record.provenance}
        if vote.voters > 1:
            provenance |= {"votes": vote.votes, "voters": vote.voters}
        return provenance | where

    def _by_teacher(self, teacher: str, pairs: Sequence[tuple[Request, Reply]]) -> dict[str, Any]:
        usages = [reply.usage for _, reply in pairs if reply.usage is not None]
        usage = sum(usages, Usage())
        value: dict[str, Any] = {
            "teacher": teacher,
            "model": pairs[-1][1].model,
            "date": max(reply.date for _, reply in pairs),
            "samples": sum(len(reply.candidates) for _, reply in pairs),
            "settings": {
                name: setting
                for name, setting in dataclasses.asdict(pairs[0][0].sampling).items()
                if setting is not None
            },
            "usage": [usage.prompt_tokens, usage.completion_tokens] if usages else None,
        }
        if self.keep_replies:
            value["replies"] = [candidate.text for _, reply in pairs for candidate in reply.candidates]
        return value


def failed_requests(row: PromptedRow, collected: Collected, teachers: Sequence[str]) -> list[dict[str, Any]]:
    """One JSON object per failed request of a row to the teachers. Reads no stored reply."""
    return [
        _failure(
            row.record,
            failure,
            {"kind": REPLY, "teacher": request.teacher, "sample": request.sample, "purpose": request.purpose},
        )
        for request in (*row.requests, *row.told)
        if request.teacher in teachers and (failure := collected.failures.get(request.key)) is not None
    ]


def _failure(record: Record, failure: Failure, where: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": record.id, **where, **dataclasses.asdict(failure), "input": record.input}
