"""Prepared bookmarks in Aim's page: what to look at while a policy learns, drives, and beside other runs.

Aim keeps a bookmark as the state of one of its explorers, in the form that its page itself sends. What is not said
here, the page fills in.
"""

import json
from dataclasses import dataclass
from typing import Any

from aim.web.api.dashboard_apps.models import ExploreState
from aim.web.api.dashboards.models import Dashboard
from aim.web.api.db import get_contexted_session

LOSSES = ("actor_loss", "critic_loss", "policy_loss", "value_loss", "entropy", "entropy_loss", "alpha", "approx_kl")


@dataclass(frozen=True)
class Bookmark:
    """A prepared bookmark.

    Attributes:
        name: what the page calls it.
        description: what it is for.
        explorer: "metrics" or "images".
        query: which metrics or images it shows, as Aim's search takes it.
    """

    name: str
    description: str
    explorer: str
    query: str

    @property
    def state(self) -> dict[str, Any]:
        """The state of the explorer."""
        select = {"options": [], "query": "", "advancedMode": True, "advancedQuery": self.query}
        return {"select": select, **(METRICS_STATE if self.explorer == "metrics" else IMAGES_STATE)}


BOOKMARKS = (
    Bookmark(
        "Learning",
        "Validation return and laps, the return of training, and the losses",
        "metrics",
        'metric.context.subset in ("eval", "score") and metric.name in ("1_mean_return", "2_lap_finish_rate") '
        'or metric.name in ("ep_rew_mean", "success_rate") '
        f'or metric.context.subset == "train" and metric.name in {LOSSES}',
    ),
    Bookmark("Driving", "Maps and GIFs of the evaluations", "images", 'images.name in ("driven_lines", "driving")'),
    Bookmark(
        "Compare",
        "Validation return and laps of all runs",
        "metrics",
        'metric.context.subset == "eval" and metric.name in ("1_mean_return", "2_lap_finish_rate", "3_min_return")',
    ),
)

METRICS_STATE: dict[str, Any] = {
    "grouping": {
        "color": ["run.props.name"],
        "stroke": ["context.subset"],
        "chart": ["name"],
        "reverseMode": {"color": False, "stroke": False, "chart": False},
        "isApplied": {"color": True, "stroke": True, "chart": True},
        "persistence": {"color": False, "stroke": False},
        "seed": {"color": 10, "stroke": 10},
        "paletteIndex": 0,
    },
    "chart": {
        "highlightMode": 2,
        # The first returns are outliers, and belong to the picture.
        "ignoreOutliers": False,
        "zoom": {"active": False, "mode": 1, "history": []},
        "axesScaleType": {"xAxis": "linear", "yAxis": "linear"},
        "axesScaleRange": {"yAxis": {}, "xAxis": {}},
        "smoothing": {
            "algorithm": "EXPONENTIAL_MOVING_AVERAGE",
            "factor": 0.6,
            "curveInterpolation": "curveLinear",
            "isApplied": False,
        },
        "alignmentConfig": {"metric": "", "type": "step"},
        "densityType": 500,
        "aggregationConfig": {"methods": {"area": 1, "line": 0}, "isApplied": False, "isEnabled": False},
        "tooltip": {"appearance": "auto", "display": True, "selectedFields": []},
        "legends": {"display": True, "mode": "pinned"},
        "focusedState": {"key": None, "xValue": None, "yValue": None, "active": False, "chartIndex": None},
    },
    "table": {
        "resizeMode": "resizable",
        "rowHeight": 28,
        "sortFields": [],
        "hiddenMetrics": [],
        "hiddenColumns": ["hash", "description", "creator"],
        "columnsWidths": {"tags": 300},
        "columnsOrder": {"left": ["run"], "middle": [], "right": []},
        "height": "0.5",
    },
    "liveUpdate": {"delay": 10_000, "enabled": True},
}

IMAGES_STATE: dict[str, Any] = {
    "grouping": {
        "row": ["run.props.name", "name", "step"],
        "reverseMode": {"row": False},
        "isApplied": {"row": True},
    },
    "images": {
        "indexDensity": 10,
        "recordDensity": 10,
        "tooltip": {"appearance": "auto", "display": True, "selectedFields": []},
        "additionalProperties": {
            "alignmentType": "Height",
            "mediaItemSize": 25,
            "imageRendering": "smooth",
            "stacking": False,
        },
        "focusedState": {"active": False, "key": None},
        "sortFields": [],
        "sortFieldsDict": {},
        "inputsValidations": {},
    },
    "table": {
        "resizeMode": "resizable",
        "rowHeight": 28,
        "sortFields": [],
        "hiddenMetrics": [],
        "hiddenColumns": [],
        "columnsWidths": {"tags": 300},
        "columnsOrder": {"left": [], "middle": [], "right": []},
        "height": "0.5",
    },
}


def add_bookmarks() -> list[tuple[str, str]]:
    """Add the prepared bookmarks to the repository that the environment names.

    One that was there before is left as it is, and one that the user has removed stays away.

    Returns:
        The name and the path of each that is there, below the page's address.
    """
    paths = []
    with get_contexted_session() as session:
        for bookmark in BOOKMARKS:
            dashboard = session.query(Dashboard).filter(Dashboard.name == bookmark.name).first()
            if dashboard is None:
                dashboard = Dashboard(bookmark.name, bookmark.description)
                explorer: Any = ExploreState()
                explorer.type = bookmark.explorer
                explorer.state = json.dumps(bookmark.state)
                explorer.dashboard_id = dashboard.uuid
                session.add_all([dashboard, explorer])
                session.commit()
            explorer = session.query(ExploreState).filter(ExploreState.dashboard_id == dashboard.uuid).first()
            if explorer is not None and not dashboard.is_archived:
                paths.append((bookmark.name, f"{explorer.type}/{explorer.uuid}"))
    return paths
