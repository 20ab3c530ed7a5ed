"""The network monitor's forecasts: when bins are full, what is said of a link's future, and when it is taken back."""

import random

from agents.base import Agent, Effects, on
from agents.network_monitor import outlook, telling
from agents.network_monitor.settings import NetworkMonitorSettings
from agents.network_monitor.state import Link, NetworkMonitorState
from schemas.ids import NodeId
from schemas.network import LinkForecast, LinkQuality
from schemas.training import ContributionReceived

RATES_KEPT = 8
"""Uploads of a node that one bin of five seconds remembers."""


class Foresight(Agent[NetworkMonitorState]):
    """The links that the network monitor knows, and their outlook.

    A forecast (`LinkForecast`) is told only while such forecasts were better than "as it is now", and only where they say
    that something changes.
    """

    name = "network_monitor"

    def __init__(
        self, settings: NetworkMonitorSettings, rng: random.Random, state: NetworkMonitorState | None = None
    ) -> None:
        super().__init__(state if state is not None else NetworkMonitorState(), rng)
        self.settings = settings

    # Forecasts

    @on(ContributionReceived)
    def learn_rate(self, event: ContributionReceived, now: float) -> None:
        """What an upload was carried at. A reducer's own difference doesn't travel."""
        link = self.state.links.get(event.contributor)
        if link is not None and event.carried > 0 and event.seconds > 0:
            link.outlook.rates = [*link.outlook.rates[-(RATES_KEPT - 1) :], event.carried / event.seconds]

    def _look_ahead(self, link: Link, now: float) -> Effects:
        """A bin is full: say what comes next where that is worth saying, and take back what no longer is."""
        seen = link.outlook
        probes = link.estimate.history[-seen.probes :]
        ended = outlook.close(seen, probes, now)
        found = telling.scale_told(link)
        if found is None:
            if seen.told:
                yield from self._take_back(link, "forecasts were no better of late than taking it as it is")
            return
        bins, scale = found
        if bins.count % scale.every or not any(bins is each for each in ended):
            return
        ahead = telling.tell(link, bins, scale, self.settings, now)
        if ahead:
            seen.version, seen.told = seen.version + 1, True
            yield self.publish(telling.message(link, bins, scale, ahead))
        elif seen.told:
            yield from self._take_back(link, "no change is expected any more")

    def _take_back(self, link: Link, why: str) -> Effects:
        link.outlook.version, link.outlook.told = link.outlook.version + 1, False
        yield self.publish(telling.taken_back(link, why))

    @on(LinkForecast)
    def adopt_forecast(self, event: LinkForecast, now: float) -> None:
        """A forecast of an earlier life of this monitor: its versions go on growing. (Its own words are no news.)"""
        seen = self._link(event.node).outlook
        if event.version > seen.version:
            seen.version, seen.told = event.version, event.method != "none"

    def _link(self, node: NodeId) -> Link:
        links = self.state.links
        if node not in links:
            if len(links) >= self.settings.links_kept:
                absent = [(link.heard, name) for name, link in links.items() if link.quality is LinkQuality.OFFLINE]
                del links[min(absent or [(link.heard, name) for name, link in links.items()])[1]]
            links[node] = Link(node=node)
        return links[node]
