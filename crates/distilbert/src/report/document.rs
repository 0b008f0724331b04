//! The report as titles, tables and figures. All text in here is raw; each output escapes it.

/// A whole report.
pub(super) struct Document {
    pub title: String,
    /// Lines under the title.
    pub notes: Vec<String>,
    /// The result in a sentence or two.
    pub lead: Vec<String>,
    pub sections: Vec<Section>,
}

/// A titled part.
pub(super) struct Section {
    pub title: String,
    pub blocks: Vec<Block>,
}

/// What a section is made of.
pub(super) enum Block {
    Text(String),
    Table(Table),
    Figures(Vec<Figure>),
    Examples {
        title: String,
        examples: Vec<TextExample>,
    },
    /// Blocks under a title, which the HTML form can fold away.
    Part {
        title: String,
        open: bool,
        blocks: Vec<Block>,
    },
}

/// A table; the first column names the row.
pub(super) struct Table {
    pub caption: String,
    pub columns: Vec<Column>,
    pub rows: Vec<Vec<Cell>>,
}

/// A column's title and alignment.
pub(super) struct Column {
    pub title: String,
    pub align: Align,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Align {
    Left,
    Right,
}

/// A cell's text, and how strongly it is shaded, 0 to 1 (confusion matrices).
pub(super) struct Cell {
    pub text: String,
    pub shade: f64,
}

/// A plot with its legend.
pub(super) struct Figure {
    pub title: String,
    pub caption: String,
    /// An `<svg>` element; holds no text from outside.
    pub svg: String,
    /// Series number (its colour and mark) and name.
    pub legend: Vec<(usize, String)>,
}

/// An input on which two models disagree.
pub(super) struct TextExample {
    /// The text or texts.
    pub texts: Vec<String>,
    /// What each party says: who, what.
    pub verdicts: Vec<(String, String)>,
}

impl Table {
    pub(super) fn new(caption: impl Into<String>, columns: &[(&str, Align)]) -> Self {
        let columns = columns.iter().map(|&(title, align)| Column { title: title.to_owned(), align }).collect();
        Table { caption: caption.into(), columns, rows: Vec::new() }
    }

    pub(super) fn push(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|text| Cell { text, shade: 0.0 }).collect());
    }
}
