"""Captions as the web writes them: synonyms, left-out attributes, words that have nothing to do with the picture."""

import random
from collections.abc import Callable, Sequence

from datamodules.scenes.layout import Scene, Thing, place_word, size_word
from datamodules.scenes.vocabulary import Vocabulary

Draw = Callable[[], float]


def _pick(draw: Draw, words: Sequence[str]) -> str:
    return words[int(draw() * len(words))]


def _article(phrase: str) -> str:
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


class _Caption:
    """The slots of the templates for one scene, filled on demand: each call draws anew, but for the noun."""

    def __init__(self, scene: Scene, words: Vocabulary, draw: Draw) -> None:
        self.scene, self.words, self.draw = scene, words, draw
        self.name = self._name(scene.objects[0])

    def _name(self, thing: Thing) -> str:
        names = self.words.categories[thing.category].names
        return names[0] if self.draw() < 0.5 else _pick(self.draw, names)

    def _adjectives(self, thing: Thing) -> str:
        draw, words = self.draw, self.words
        text = ""
        if draw() < 0.2:
            text += _pick(draw, words.sizes[size_word(thing.size)]) + " "
        if draw() < 0.45:
            text += _pick(draw, words.colours[thing.colour].words) + " "
        # Nobody calls a thing plain as often as striped.
        if draw() < (0.1 if words.textures[thing.texture].pattern == "plain" else 0.35):
            text += _pick(draw, words.textures[thing.texture].words) + " "
        return text

    def bare(self) -> str:
        return self._adjectives(self.scene.objects[0]) + self.name

    def noun(self) -> str:
        return self.name

    def hashtag(self) -> str:
        return "#" + self.name.replace(" ", "")

    def others(self) -> str:
        text = ""
        for thing in self.scene.objects[1:]:
            if self.draw() < 0.75:
                text += f" {_pick(self.draw, self.words.joins)} " + _article(
                    self._adjectives(thing) + self._name(thing)
                )
        return text

    def where(self) -> str:
        words = self.words.backgrounds[self.scene.background].words
        return " " + _pick(self.draw, words) if self.draw() < 0.5 else ""

    def place(self) -> str:
        main = self.scene.objects[0]
        return " " + _pick(self.draw, self.words.places[place_word(main.x, main.y)])

    def number(self) -> str:
        return str(1000 + int(self.draw() * 9000))

    def fill(self, slot: str) -> str:
        """Text of a slot: a list of the vocabulary or a method of this class; `a_` in front asks for the article."""
        if slot.startswith("a_"):
            return _article(self.fill(slot.removeprefix("a_")))
        words = self.words.lists.get(slot)
        text: str = getattr(self, slot)() if words is None else _pick(self.draw, words)
        return text


def make_captions(scene: Scene, words: Vocabulary, count: int) -> list[str]:
    """The first `count` captions of a scene. Each names the main object before any other."""
    draw = random.Random(f"{scene.key}/captions").random
    return [_caption(scene, words, draw) for _ in range(count)]


def _caption(scene: Scene, words: Vocabulary, draw: Draw) -> str:
    caption = _Caption(scene, words, draw)
    template = words.templates[int(draw() * len(words.templates))]
    text = "".join(literal + (caption.fill(slot) if slot else "") for literal, slot in template)
    style = draw()
    if style < 0.25:
        text = text[0].upper() + text[1:]
    elif style < 0.28:
        text = text.upper()
    return text + ("." if draw() < 0.2 else "")


def summarise(scene: Scene, words: Vocabulary) -> str:
    """The scene in a few words: what an extractive summariser leaves of a caption."""
    main = scene.objects[0]
    names = [words.categories[thing.category].names[0] for thing in scene.objects]
    return f"{words.colours[main.colour].name} {' and '.join(names)}, {words.backgrounds[scene.background].name}"
