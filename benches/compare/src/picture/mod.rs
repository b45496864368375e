//! The results as pictures (SVG): the ratios of all cases as a coloured table, and the cost of
//! each server in a sweep as lines with their names at the end, so that there is no legend.

mod lines;
mod ratios;

use plotters::{
    backend::SVGBackend,
    coord::Shift,
    drawing::{DrawingArea, DrawingAreaErrorKind, IntoDrawingArea},
    element::{PathElement, Rectangle, Text},
    style::{
        Color, RGBColor, TextStyle,
        text_anchor::{HPos, Pos, VPos},
    },
};

pub(crate) use self::{lines::sweep, ratios::ratios};

const INK: RGBColor = RGBColor(33, 37, 41);
const FAINT_INK: RGBColor = RGBColor(108, 117, 125);
const RULE: RGBColor = RGBColor(222, 226, 230);
const PAPER: RGBColor = RGBColor(255, 255, 255);

type Error = DrawingAreaErrorKind<std::io::Error>;

/// A picture that is being drawn, in pixels from its upper left corner.
struct Canvas<'a> {
    area: DrawingArea<SVGBackend<'a>, Shift>,
}

impl<'a> Canvas<'a> {
    fn new(svg: &'a mut String, width: i32, height: i32) -> Result<Self, Error> {
        let size = (width.cast_unsigned(), height.cast_unsigned());
        let area = SVGBackend::with_string(svg, size).into_drawing_area();
        area.fill(&PAPER)?;
        Ok(Self { area })
    }

    fn text(
        &self,
        text: &str,
        at: (i32, i32),
        align: HPos,
        size: i32,
        color: RGBColor,
    ) -> Result<(), Error> {
        let style = TextStyle::from(("sans-serif", size)).color(&color);
        self.area.draw(&Text::new(text, at, style.pos(Pos::new(align, VPos::Center))))
    }

    fn rectangle(&self, corners: [(i32, i32); 2], color: RGBColor) -> Result<(), Error> {
        self.area.draw(&Rectangle::new(corners, color.filled()))
    }

    fn path(&self, points: Vec<(i32, i32)>, color: RGBColor, width: u32) -> Result<(), Error> {
        self.area.draw(&PathElement::new(points, color.stroke_width(width)))
    }
}
