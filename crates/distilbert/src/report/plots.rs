//! Plots as SVG elements that fit any width and take their colours from the page's style sheet.
//!
//! Only numbers and the axes' own words are drawn; names from outside stand in the legend, outside the SVG.

use plotters::coord::Shift;
use plotters::prelude::*;

/// One model's points.
pub(super) struct Series {
    /// Index of the model: chooses colour and mark.
    pub number: usize,
    pub points: Vec<Point>,
}

/// A point with an optional vertical interval.
#[derive(Clone, Copy)]
pub(super) struct Point {
    pub x: f64,
    pub y: f64,
    pub interval: Option<(f64, f64)>,
}

impl Point {
    pub(super) fn at(x: f64, y: f64) -> Self {
        Point { x, y, interval: None }
    }
}

/// Titles and manner of a plot's axes.
pub(super) struct Axes<'a> {
    x: &'a str,
    y: &'a str,
    marked: bool,
    y_from_zero: bool,
}

impl<'a> Axes<'a> {
    pub(super) fn new(x: &'a str, y: &'a str) -> Self {
        Axes { x, y, marked: false, y_from_zero: false }
    }

    /// Marks each point of a line.
    pub(super) fn marked(self) -> Self {
        Axes { marked: true, ..self }
    }

    /// Begins the vertical axis at 0.
    pub(super) fn with_zero(self) -> Self {
        Axes { y_from_zero: true, ..self }
    }
}

/// A colour as drawn (on white) and as the style sheet replaces it on a dark page.
pub(super) struct Ink {
    pub light: RGBColor,
    pub dark: &'static str,
}

/// Colours of the series, told apart with common colour blindness too; marks differ as well.
pub(super) const SERIES: [Ink; 6] = [
    Ink { light: RGBColor(0x1d, 0x5f, 0xa8), dark: "#6cb2f5" },
    Ink { light: RGBColor(0xc2, 0x57, 0x0c), dark: "#f59b51" },
    Ink { light: RGBColor(0x2b, 0x7f, 0x55), dark: "#5fc795" },
    Ink { light: RGBColor(0x8b, 0x3f, 0xa8), dark: "#cb91e4" },
    Ink { light: RGBColor(0xa8, 0x32, 0x4a), dark: "#f08497" },
    Ink { light: RGBColor(0x5c, 0x64, 0x70), dark: "#a9b1bc" },
];
/// Titles and numbers.
pub(super) const TEXT: Ink = Ink { light: RGBColor(0x3a, 0x40, 0x48), dark: "#c3cad3" };
/// Axes.
pub(super) const AXIS: Ink = Ink { light: RGBColor(0x9a, 0xa2, 0xac), dark: "#68717c" };
/// Grid lines.
pub(super) const GRID: Ink = Ink { light: RGBColor(0xe4, 0xe7, 0xeb), dark: "#30363e" };

/// Drawn size; the page scales it. Twice the size at which it is usually seen, because positions are whole pixels.
const SIZE: (u32, u32) = (1040, 700);
const FONT: (&str, u32) = ("sans-serif", 40);
/// Points drawn of one line; more are averaged.
const MOST_POINTS: usize = 150;

/// A line for each series; `None` if no series has a finite point.
pub(super) fn lines(series: &[Series], axes: &Axes<'_>) -> Option<String> {
    let series: Vec<Series> = series.iter().map(thin).filter(|series| !series.points.is_empty()).collect();
    draw(&series, axes, |chart, series, colour| {
        chart.draw_series(LineSeries::new(series.points.iter().map(|p| (p.x, p.y)), colour.stroke_width(3)))?;
        if axes.marked || series.points.len() == 1 {
            marks(chart, series, colour)?;
        }
        Ok(())
    })
}

/// Marks with intervals; `None` if no series has a finite point.
pub(super) fn scatter(series: &[Series], axes: &Axes<'_>) -> Option<String> {
    let series: Vec<Series> = series.iter().map(finite).filter(|series| !series.points.is_empty()).collect();
    draw(&series, axes, |chart, series, colour| {
        for point in &series.points {
            if let Some((low, high)) = point.interval {
                let ends = vec![(point.x, low), (point.x, high)];
                chart.draw_series([PathElement::new(ends, colour.stroke_width(3))])?;
            }
        }
        marks(chart, series, colour)
    })
}

/// The mark of a series for the legend: an `<svg>` of 12 by 12.
pub(super) fn legend_mark(number: usize) -> String {
    let colour = colour(number);
    let fill = format!("#{:02X}{:02X}{:02X}", colour.0, colour.1, colour.2);
    let shape = match number % 4 {
        0 => format!("<circle cx=\"6\" cy=\"6\" r=\"5\" fill=\"{fill}\"/>"),
        shape => {
            let corners: Vec<String> =
                corners(shape).iter().map(|&(x, y)| format!("{},{}", 6.0 + 5.0 * x, 6.0 + 5.0 * y)).collect();
            format!("<polygon points=\"{}\" fill=\"{fill}\"/>", corners.join(" "))
        }
    };
    format!("<svg class=\"mark\" viewBox=\"0 0 12 12\" aria-hidden=\"true\">{shape}</svg>")
}

type Chart<'a, 'b> = ChartContext<
    'a,
    SVGBackend<'b>,
    Cartesian2d<plotters::coord::types::RangedCoordf64, plotters::coord::types::RangedCoordf64>,
>;
type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

fn draw(
    series: &[Series],
    axes: &Axes<'_>,
    draw_one: impl Fn(&mut Chart<'_, '_>, &Series, RGBColor) -> Drawn,
) -> Option<String> {
    let points = || series.iter().flat_map(|series| &series.points);
    let ys = || points().flat_map(|p| [p.y, p.interval.map_or(p.y, |i| i.0), p.interval.map_or(p.y, |i| i.1)]);
    // Sizes, latencies, lengths and steps are all counted from 0.
    let x = range(points().map(|point| point.x))?;
    let y = range(ys().chain(axes.y_from_zero.then_some(0.0)))?;
    let x = if points().all(|point| point.x >= 0.0) { 0.0..x.end } else { x };
    let y = if axes.y_from_zero && points().all(|point| point.y >= 0.0) { 0.0..y.end } else { y };

    let mut svg = String::new();
    let drawn = {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        draw_chart(&area, x, y, axes, series, draw_one).and_then(|()| area.present())
    };
    // Drawing into memory has no error of its own; if a library change brings one, the plot is missing, not the report.
    drawn.ok()?;
    Some(svg.replacen(&format!("width=\"{}\" height=\"{}\" ", SIZE.0, SIZE.1), "", 1))
}

fn draw_chart(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    x: std::ops::Range<f64>,
    y: std::ops::Range<f64>,
    axes: &Axes<'_>,
    series: &[Series],
    draw_one: impl Fn(&mut Chart<'_, '_>, &Series, RGBColor) -> Drawn,
) -> Drawn {
    let digits = |range: &std::ops::Range<f64>| decimals(range.end - range.start);
    let (x_digits, y_digits) = (digits(&x), digits(&y));
    let mut chart = ChartBuilder::on(area)
        .margin_top(24)
        .margin_right(36)
        .margin_bottom(16)
        .margin_left(24)
        .x_label_area_size(116)
        .y_label_area_size(150)
        .build_cartesian_2d(x, y)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .max_light_lines(0)
        .bold_line_style(GRID.light.stroke_width(2))
        .axis_style(AXIS.light.stroke_width(2))
        .label_style(FONT.into_font().color(&TEXT.light))
        .axis_desc_style(FONT.into_font().color(&TEXT.light))
        .x_labels(6)
        .y_labels(6)
        .x_label_formatter(&|value| format!("{value:.x_digits$}"))
        .y_label_formatter(&|value| format!("{value:.y_digits$}"))
        .x_desc(axes.x)
        .y_desc(axes.y)
        .draw()?;
    for one in series {
        draw_one(&mut chart, one, colour(one.number))?;
    }
    Ok(())
}

fn marks(chart: &mut Chart<'_, '_>, series: &Series, colour: RGBColor) -> Drawn {
    const RADIUS: i32 = 11;
    for point in &series.points {
        let place = (point.x, point.y);
        match series.number % 4 {
            0 => chart.draw_series([Circle::new(place, RADIUS, colour.filled())])?,
            shape => {
                let radius = f64::from(RADIUS);
                let corner = |&(x, y): &(f64, f64)| ((radius * x).round() as i32, (radius * y).round() as i32);
                let corners: Vec<(i32, i32)> = corners(shape).iter().map(corner).collect();
                chart.draw_series([EmptyElement::at(place) + Polygon::new(corners, colour.filled())])?
            }
        };
    }
    Ok(())
}

/// Corners of a square, a triangle, a diamond, about the middle; down is positive.
fn corners(shape: usize) -> &'static [(f64, f64)] {
    match shape {
        1 => &[(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
        2 => &[(0.0, -1.1), (1.1, 0.9), (-1.1, 0.9)],
        _ => &[(0.0, -1.2), (1.2, 0.0), (0.0, 1.2), (-1.2, 0.0)],
    }
}

fn colour(number: usize) -> RGBColor {
    SERIES[number % SERIES.len()].light
}

/// Smallest to largest with a margin; never empty, because an axis of no length cannot be drawn. `None` of nothing.
fn range(values: impl Iterator<Item = f64> + Clone) -> Option<std::ops::Range<f64>> {
    let low = values.clone().fold(f64::INFINITY, f64::min);
    let high = values.fold(f64::NEG_INFINITY, f64::max);
    if !low.is_finite() || !high.is_finite() {
        return None;
    }
    let spread = high - low;
    // Relative, so that the margin survives rounding next to a large number.
    let margin = if spread > 1e-9 * low.abs().max(high.abs()) { 0.08 * spread } else { 0.1 * high.abs().max(1e-3) };
    Some(low - margin..high + margin).filter(|range| range.start.is_finite() && range.end.is_finite())
}

/// Decimals that tell the marks of an axis of this length apart.
fn decimals(length: f64) -> usize {
    match length {
        length if length >= 10.0 => 0,
        length if length >= 1.0 => 1,
        length if length >= 0.1 => 2,
        _ => 4,
    }
}

/// Only points that can be drawn: finite, and small enough that axes can be computed.
fn finite(series: &Series) -> Series {
    const LARGEST: f64 = 1e15;
    let fits = |value: f64| value.abs() <= LARGEST;
    let points = series.points.iter().filter(|point| fits(point.x) && fits(point.y));
    let points = points.map(|point| Point { interval: point.interval.filter(|i| fits(i.0) && fits(i.1)), ..*point });
    Series { number: series.number, points: points.collect() }
}

/// At most [`MOST_POINTS`]: means over equal runs of points.
fn thin(series: &Series) -> Series {
    let series = finite(series);
    let run = series.points.len().div_ceil(MOST_POINTS).max(1);
    let mean = |points: &[Point]| {
        let n = points.len().max(1) as f64;
        Point::at(points.iter().map(|p| p.x).sum::<f64>() / n, points.iter().map(|p| p.y).sum::<f64>() / n)
    };
    Series { number: series.number, points: series.points.chunks(run).map(mean).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(points: &[(f64, f64)]) -> Vec<Series> {
        vec![Series { number: 0, points: points.iter().map(|&(x, y)| Point::at(x, y)).collect() }]
    }

    #[test]
    fn degenerate_points_make_a_plot_or_none_but_no_panic() {
        let axes = Axes::new("x", "y");
        for points in [
            &[(1.0, 1.0)][..],
            &[(0.0, 0.0)],
            &[(3.0, 5.0), (3.0, 5.0)],
            &[(1.0, 1e15), (2.0, 1e15 + 1.0)],
            &[(1.0, 1e-300), (2.0, 2e-300)],
            &[(-5.0, -7.0), (1e15, -1e15)],
            &[(1.0, f64::NAN), (2.0, 1.0)],
        ] {
            assert!(lines(&series(points), &axes).is_some(), "{points:?}");
            assert!(scatter(&series(points), &axes).is_some(), "{points:?}");
        }
        for points in [&[][..], &[(f64::NAN, 1.0)], &[(1.0, f64::INFINITY)], &[(1e300, 1.0)]] {
            assert!(lines(&series(points), &axes).is_none(), "{points:?}");
            assert!(scatter(&series(points), &axes).is_none(), "{points:?}");
        }
    }

    #[test]
    fn long_curves_are_averaged_and_not_cut() {
        let long: Vec<(f64, f64)> = (0..10_001).map(|step| (f64::from(step), 2.0)).collect();
        let thinned = thin(&series(&long)[0]);
        assert!(thinned.points.len() <= MOST_POINTS);
        assert!(thinned.points.last().is_some_and(|point| point.x > 9_900.0));
        assert!(thinned.points.iter().all(|point| point.y == 2.0));
    }
}
