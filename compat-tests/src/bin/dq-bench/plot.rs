//! Operations per second as bars, C beside ours, on a scale where equal lengths are equal factors.

use std::error::Error;
use std::io;
use std::path::Path;

use plotters::coord::ranged1d::SegmentedCoord;
use plotters::prelude::*;

use crate::figures::{Load, Table};

const SERVERS: [(&str, RGBColor); 4] = [
    ("C", RGBColor(0x9a, 0xa0, 0xa6)),
    ("dq", RGBColor(0x1f, 0x6f, 0xb2)),
    ("dq lease", RGBColor(0x6b, 0xb0, 0x4a)),
    ("dq queue", RGBColor(0xd9, 0x8c, 0x2b)),
];

const WIDTH: u32 = 1000;
const PANEL_HEIGHT: u32 = 330;

/// Draws a table: a panel for each place where data live.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn draw(file: &Path, table: &Table) -> io::Result<()> {
    draw_panels(file, table).map_err(|error| io::Error::other(error.to_string()))
}

fn draw_panels(file: &Path, table: &Table) -> Result<(), Box<dyn Error>> {
    let mut places: Vec<&str> = table.loads().iter().map(|load| load.place).collect();
    places.dedup();
    let rows = places.len().max(1);
    let root = SVGBackend::new(file, (WIDTH, PANEL_HEIGHT * rows as u32)).into_drawing_area();
    root.fill(&WHITE)?;
    for (area, place) in root.split_evenly((rows, 1)).iter().zip(places) {
        let loads: Vec<Load> = (table.loads().iter().copied())
            .filter(|load| load.place == place)
            .collect();
        draw_panel(area, table, place, &loads)?;
    }
    root.present()?;
    Ok(())
}

fn draw_panel(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    table: &Table,
    place: &str,
    loads: &[Load],
) -> Result<(), Box<dyn Error>> {
    let rate = |load: &Load, server| table.median(*load, server, |f| f.rate);
    let highest = loads
        .iter()
        .flat_map(|load| SERVERS.map(|(server, _)| rate(load, server).unwrap_or(0.0)))
        .fold(10.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption(
            format!("Operations per second, data on {place}"),
            ("sans-serif", 18),
        )
        .margin(10)
        .x_label_area_size(50)
        .y_label_area_size(70)
        .build_cartesian_2d(
            (0..loads.len()).into_segmented(),
            (10.0..highest * 1.5).log_scale(),
        )?;
    let label = |position: &SegmentValue<usize>| match position {
        SegmentValue::CenterOf(i) => loads.get(*i).map_or_else(String::new, |load| {
            format!("{} ×{}", load.workload, load.connections)
        }),
        _ => String::new(),
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(loads.len() + 1)
        .x_label_formatter(&label)
        .x_label_style(
            ("sans-serif", 11)
                .into_font()
                .transform(FontTransform::Rotate90),
        )
        .y_label_formatter(&|value| format!("{value:.0}"))
        .draw()?;
    let measured: Vec<_> = (SERVERS.into_iter())
        .filter(|(server, _)| loads.iter().any(|load| rate(load, server).is_some()))
        .collect();
    for (at, &(server, color)) in measured.iter().enumerate() {
        let bars = (loads.iter().enumerate())
            .filter_map(|(i, load)| Some(bar(&chart, i, (at, measured.len()), rate(load, server)?)))
            .map(|corners| Rectangle::new(corners, color.filled()));
        let bars: Vec<_> = bars.collect();
        let plane = chart.plotting_area().strip_coord_spec();
        for bar in &bars {
            plane.draw(bar)?;
        }
        let (left, top) = (WIDTH as i32 - 330 + 80 * at as i32, 14);
        area.draw(&Rectangle::new(
            [(left, top), (left + 12, top + 12)],
            color.filled(),
        ))?;
        area.draw(&Text::new(
            server,
            (left + 16, top),
            ("sans-serif", 14).into_font(),
        ))?;
    }
    Ok(())
}

type Chart<'a, 'b> = ChartContext<
    'a,
    SVGBackend<'b>,
    Cartesian2d<SegmentedCoord<plotters::coord::types::RangedCoordusize>, LogCoord<f64>>,
>;

/// The corners of one bar, in pixels of the plotting area: the `at`-th of `count` beside each other.
fn bar(
    chart: &Chart<'_, '_>,
    load: usize,
    (at, count): (usize, usize),
    rate: f64,
) -> [(i32, i32); 2] {
    let plane = chart.plotting_area();
    let (origin_x, origin_y) = plane.get_base_pixel();
    let left = plane.map_coordinate(&(SegmentValue::Exact(load), 10.0));
    let right = plane.map_coordinate(&(SegmentValue::Exact(load + 1), rate.max(10.0)));
    let gap = (right.0 - left.0) / 8;
    let width = (right.0 - left.0 - 2 * gap) / count.max(1) as i32;
    let x = left.0 + gap + width * at as i32 - origin_x;
    [(x, right.1 - origin_y), (x + width, left.1 - origin_y)]
}
