"""The classifier that a text encoder makes of class names: one direction per class, the mean over prompts.

Legend: C classes, T templates, E size of the embedding.

    w_c = normalize( (1/T) sum_t normalize(text(template_t(name_c))) ),   W = (w_1 ... w_C), E x C

Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (CLIP, 2021), 3.1.4.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

SIMPLE = ("a photo of a {}.",)
TEMPLATES = ("simple", "openai_imagenet", "simple_imagenet")
PROMPTS_AT_ONCE = 256


def zero_shot_weight_EC(
    tower: nn.Module,
    tokenizer: Callable[[list[str]], Tensor],
    names: Sequence[str],
    templates: Sequence[str],
    device: str | torch.device = "cpu",
) -> Tensor:
    """W `(E, C)` on the CPU: columns of length one, in the order of `names`.

    Args:
        tower: has `encode_text(tokens, normalize=True)`; it is moved to `device`.
        tokenizer: strings to tokens.
        names: of the classes.
        templates: sentences with `{}` in the place of the name.
        device: where the texts are encoded.
    """
    prompts = [template.format(name) for name in names for template in templates]
    tower.to(device).eval()
    with torch.no_grad():
        embedded = [
            tower.encode_text(tokenizer(prompts[start : start + PROMPTS_AT_ONCE]).to(device), normalize=True).cpu()
            for start in range(0, len(prompts), PROMPTS_AT_ONCE)
        ]
    text_CTE = torch.cat(embedded).unflatten(0, (len(names), len(templates)))
    return normalize(text_CTE.mean(1), dim=-1).T.contiguous()


def prompt_templates(templates: str | Sequence[str]) -> list[str]:
    """The sentences that `templates` stands for.

    Args:
        templates: `simple` (one sentence), `openai_imagenet` (80) or `simple_imagenet` (7 of them), as open_clip has
            them; or a list of sentences, each with `{}` once.

    Raises:
        ValueError: for another name, an empty list, or a sentence without `{}`.

    >>> prompt_templates("simple")
    ['a photo of a {}.']
    """
    if isinstance(templates, str):
        if templates == "simple":
            return list(SIMPLE)
        if templates not in TEMPLATES:
            raise ValueError(
                f"templates={templates!r}, but it must be one of {', '.join(TEMPLATES)}, or a list of sentences"
            )
        import open_clip

        return [template("{}") for template in getattr(open_clip, f"{templates.upper()}_TEMPLATES")]
    for template in templates:
        if not isinstance(template, str) or template.count("{}") != 1 or template.count("{") != 1:
            raise ValueError(
                f"templates has {template!r}: every sentence must have {{}} once, for the name of the class"
            )
    if not templates:
        raise ValueError("templates is empty: give at least one sentence with {}, or templates=simple")
    return list(templates)


def class_names(chosen: str | Sequence[str] | None, of_data: Sequence[str] | None) -> list[str]:
    """The names that the prompts speak of.

    Args:
        chosen: a list; `imagenet`, the 1000 names that open_clip has, in the order of the folders' names; or None for
            those of the data, with spaces for underscores.
        of_data: the names that the data have.

    Raises:
        ValueError: for another name, an empty list, or if there are names from neither.

    >>> class_names(None, ["golden_retriever", "tabby"])
    ['golden retriever', 'tabby']
    """
    if chosen is None:
        if of_data is None:
            raise ValueError("class_names is null and the data give no names: pass the names of the classes")
        return [name.replace("_", " ") for name in of_data]
    if isinstance(chosen, str):
        if chosen != "imagenet":
            raise ValueError(f"class_names={chosen!r}, but it must be a list of names, imagenet or null")
        import open_clip

        return list(open_clip.IMAGENET_CLASSNAMES)
    if not chosen or not all(isinstance(name, str) and name for name in chosen):
        raise ValueError(f"class_names={list(chosen)}: a list of names is needed, none of them empty")
    return list(chosen)
