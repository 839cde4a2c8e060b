"""The demo's screen."""

from penstock.cli.screen import Replayed, Site, Totals, screen, summary
from penstock.kpis.v1 import kpis_pb2, kpis_service_pb2
from tests.cli.test_display import shown

SITES = (
    Site("online-retail", "online-retail · REAL orders", "ten months", "green"),
    Site("simulated-shop", "simulated-shop · SIMULATED", "5 minutes", "magenta"),
)


def drawn(width: int) -> str:
    """The screen, so wide."""
    replayed = Replayed(total=1_000, rows=250, seconds=0.5)
    return shown(
        screen(SITES, replayed, grpc="127.0.0.1:1", rest="http://127.0.0.1:2", log="x.log", width=width), width
    )


def test_it_says_which_site_is_real_and_where_to_look() -> None:
    text = drawn(150)
    for part in (
        "REAL orders",
        "SIMULATED",
        "250 of 1,000 rows",
        "500/s",
        "http://127.0.0.1:2/metrics",
        "127.0.0.1:1",
        "x.log",
    ):
        assert part in text


def test_sites_stand_side_by_side_where_there_is_room() -> None:
    assert any("REAL" in line and "SIMULATED" in line for line in drawn(150).splitlines())
    assert not any("REAL" in line and "SIMULATED" in line for line in drawn(80).splitlines())
    assert max(map(len, drawn(80).splitlines())) <= 80


def test_a_site_shows_its_newest_figures_and_remembers_the_values_before() -> None:
    site = Site("s", "s", "", "green")
    for gmv in (1, 2, 3):
        site.update(kpis_service_pb2.GetMetricsResponse(latest_kpis=kpis_pb2.KpiWindow(gmv=gmv, currency="GBP")))
    text = shown(site.panel())
    assert "GBP 3.00" in text
    assert "▁▅█" in text


def test_the_summary_has_every_figure() -> None:
    totals = Totals("online-retail", 370_931, 12_345, 15_899, 7_341_292.114, "GBP", 3_616)
    text = shown(summary(totals, grpc="127.0.0.1:1", rest="http://127.0.0.1:2"))
    for part in ("370,931", "12,345/s", "15,899", "GBP 7,341,292.11", "3,616", "/etl/status"):
        assert part in text
