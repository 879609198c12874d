"""What templates say of how pages were made, of costs, settings and the paper: public methods are functions of
templates."""

from rankadaptor.experiments.methods import LORA, NO_RECOVERY
from rankadaptor.experiments.tables import LEAST_GAIN
from rankadaptor.profiles import Budget, Profile
from rankadaptor.reporting.claims import claims_markdown
from rankadaptor.reporting.costs import measured_cost
from rankadaptor.reporting.labels import paper_method
from rankadaptor.reporting.made_with import MadeWith, command, cost, made_with
from rankadaptor.reporting.numbers import plain, signed
from rankadaptor.reporting.paper import published_differences
from rankadaptor.reporting.paper.inconsistencies import gains
from rankadaptor.reporting.prose.reports import Reports, named_profile

_PRINTED = ("AdaLoRA", "RankAdaptor", NO_RECOVERY)  # methods that the paper's tables print beside LoRA


class Pages:
    """The vocabulary of pages and commands. A page is named with its profile: `tiny/table2`."""

    def __init__(self, reports: Reports):
        self._reports = reports

    def made(self, page: str) -> MadeWith:
        """What a page was made with: `made("tiny/table2").budget`, `.training_seeds`, `.blocks`."""
        folder, _, name = page.partition("/")
        made = made_with(self._reports.folder / folder, name)
        if made is None:
            raise LookupError(f"{page} has no provenance: make the report")
        return made

    def budget_of(self, page: str) -> Budget:
        """The budget that a page was made with: `.decided`, `.report_items`."""
        return named_profile(page.partition("/")[0]).budgets[self.made(page).budget]

    def command(self, page: str, target: str = "") -> str:
        """The command that made a page, options included: `make reproduce-table2 BUDGET=standard`."""
        folder, _, name = page.partition("/")
        return command(f"make {target or f'reproduce-{name}'}", name, named_profile(folder), self.made(page))

    def cost_of(self, page: str, target: str = "") -> str:
        """What that command costs."""
        return cost(self.command(page, target), named_profile(page.partition("/")[0]), self.made(page))

    def cost(self, target: str) -> str:
        """The measured cost of a target of make: `7 to 12 minutes`."""
        return str(measured_cost(target))

    def profile(self, name: str) -> Profile:
        """A profile, whose settings may be printed: `profile("tiny").search.candidates`."""
        return named_profile(name)

    def claims(self, profile: str) -> str:
        """The table of claims."""
        return claims_markdown(self._reports.folder / profile)


class Paper:
    """The vocabulary of the paper's numbers."""

    def published(self, block: str, method: str, model: str = "LLaMA-7B") -> str:
        """The paper's average of a method less that of LoRA: `+1.29`; empty where it prints none."""
        name = paper_method(method)
        if name not in _PRINTED or block not in (differences := published_differences(name, model)):
            return ""
        return signed(differences[block], 2)

    def least_gain(self) -> str:
        """The least gain that the paper claims, as verdicts take it, in points."""
        return plain(100 * LEAST_GAIN)

    def published_gains(self, rival: str = LORA, model: str = "") -> list[float]:
        """What RankAdaptor's printed averages gain over a rival's, in points, of one model or of all."""
        table = gains()
        rows = table[(table["rival"] == rival) & ((table["model"] == model) | (model == ""))]
        return list(rows["points"])
