//! `config.json` of every family, read into the neutral configuration and written back.

use super::{Activation, ConfigError, EncoderConfig, Family, HeadKind, INTENTS_AND_SLOTS, ModelConfig, Problem};
use distilbert_kernels::Precision;
use serde_json::{Map, Value, json};

/// Name and version of the layout of saved weights below f32, in `quantization_config`.
const QUANTIZATION_FORMAT: &str = "distilbert";
const QUANTIZATION_FORMAT_VERSION: u32 = 1;

/// The key that names the slots; the intents have `id2label`.
const SLOT_LABELS: &str = "slot_labels";

impl ModelConfig {
    /// Reads the text of a `config.json`.
    ///
    /// # Errors
    /// [`ConfigError`] naming the key: a family, head or value that is not implemented is refused, never replaced.
    pub fn from_json(text: &str) -> Result<ModelConfig, ConfigError> {
        let value: Value = serde_json::from_str(text).map_err(|error| ConfigError::Json(error.to_string()))?;
        let Value::Object(object) = value else {
            return Err(ConfigError::Json("expected an object".to_owned()));
        };
        Reader(object).model()
    }

    /// The text of a `config.json` that Hugging Face `transformers` loads, unless the weights are below f32.
    pub fn to_json(&self) -> String {
        let encoder = &self.encoder;
        let mut object = Map::new();
        let mut set = |key: &str, value: Value| {
            object.insert(key.to_owned(), value);
        };
        set("architectures", json!([self.architecture()]));
        set("model_type", json!(encoder.family.model_type()));
        set("vocab_size", json!(encoder.vocab_size));
        set("max_position_embeddings", json!(encoder.position_rows()));
        set("initializer_range", number(encoder.initializer_range));
        set("pad_token_id", json!(encoder.pad_token_id));
        let keys = encoder.family.keys();
        set(keys.hidden[0], json!(encoder.hidden));
        set(keys.layers[0], json!(encoder.layers));
        set(keys.heads[0], json!(encoder.heads));
        set(keys.ffn[0], json!(encoder.ffn));
        set(keys.activation, json!(encoder.activation.name()));
        set(keys.dropout, number(encoder.dropout));
        set(keys.attention_dropout, number(encoder.attention_dropout));
        set(keys.classifier_dropout, number(self.classifier_dropout));
        if encoder.family == Family::DistilBert {
            set("qa_dropout", number(self.answering_dropout));
            set("sinusoidal_pos_embds", json!(encoder.sinusoidal_positions));
        } else {
            set("type_vocab_size", json!(encoder.token_types));
            set("layer_norm_eps", number(encoder.layer_norm_eps));
        }
        if encoder.family.has_embedding_size() {
            set("embedding_size", json!(encoder.embedding_size));
        }
        if encoder.family == Family::Albert {
            set("num_hidden_groups", json!(encoder.layer_groups));
            set("inner_group_num", json!(1));
        }
        if let HeadKind::Classification { problem, .. } = &self.head {
            set("problem_type", json!(problem_type(*problem)));
        }
        if let labels @ [_, ..] = self.head.labels() {
            set("id2label", labels.iter().enumerate().map(|(id, label)| (id.to_string(), json!(label))).collect());
            set("label2id", labels.iter().enumerate().map(|(id, label)| (label.clone(), json!(id))).collect());
        }
        if let slots @ [_, ..] = self.head.slots() {
            set(SLOT_LABELS, json!(slots));
        }
        set("tie_word_embeddings", json!(true));
        set("dtype", json!("float32"));
        if self.weights != Precision::F32 {
            // Without Hugging Face's `quant_method`, so that `transformers` refuses it.
            let version = QUANTIZATION_FORMAT_VERSION;
            let value =
                json!({"format": QUANTIZATION_FORMAT, "format_version": version, "precision": self.weights.name()});
            set("quantization_config", value);
        }
        for (key, value) in &self.other {
            object.entry(key.clone()).or_insert_with(|| value.clone());
        }
        let mut text = serde_json::to_string_pretty(&object).expect("a map of strings to JSON values is JSON");
        text.push('\n');
        text
    }
}

/// Hugging Face's name.
fn problem_type(problem: Problem) -> &'static str {
    match problem {
        Problem::Classification => "single_label_classification",
        Problem::MultiLabel => "multi_label_classification",
        Problem::Regression => "regression",
        // Nothing else classifies whole texts: other problems have other heads.
        Problem::Entities | Problem::Tags => "single_label_classification",
    }
}

/// An f32 as the shortest decimal that reads back as the same f32.
fn number(x: f32) -> Value {
    x.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}

/// Ten times what the deepest encoders in use have.
const MOST_LAYERS: usize = 1 << 10;
/// 16 GB in f32.
const MOST_PARAMETERS: u128 = 1 << 32;

/// Takes known keys out of a foreign `config.json`; what is left is kept as it is.
struct Reader(Map<String, Value>);

impl Reader {
    fn model(mut self) -> Result<ModelConfig, ConfigError> {
        let family = self.family()?;
        let encoder = self.encoder(family)?;
        let classifier_dropout =
            self.probability(family.keys().classifier_dropout, family.default_classifier_dropout(encoder.dropout))?;
        let answering_dropout = if family == Family::DistilBert { self.probability("qa_dropout", 0.1)? } else { 0.0 };
        let (head, pooler) = self.head(family)?;
        for key in ["tie_word_embeddings", "tie_weights_"] {
            if let Some(found) = self.take(key).filter(|found| found != &Value::Bool(true)) {
                return Err(invalid(key, "true (an untied decoder is not implemented)", &found));
            }
        }
        for key in ["dtype", "torch_dtype"] {
            self.take(key);
        }
        let weights = self.weights()?;
        Ok(ModelConfig { encoder, head, pooler, classifier_dropout, answering_dropout, weights, other: self.0 })
    }

    /// What `quantization_config` says of the weights; a format that is not ours would be misread.
    fn weights(&mut self) -> Result<Precision, ConfigError> {
        let object = match self.take("quantization_config") {
            None | Some(Value::Null) => return Ok(Precision::F32),
            Some(Value::Object(object)) => object,
            Some(found) => return Err(invalid("quantization_config", "an object", &found)),
        };
        let get = |key: &str| object.get(key).cloned().unwrap_or(Value::Null);
        let (format, version, precision) = (get("format"), get("format_version"), get("precision"));
        if format != QUANTIZATION_FORMAT {
            let expected = format!("`{QUANTIZATION_FORMAT}`, the only one read here");
            return Err(invalid("quantization_config.format", &expected, &format));
        }
        if version != QUANTIZATION_FORMAT_VERSION {
            let expected = format!("{QUANTIZATION_FORMAT_VERSION}, the only one this program knows");
            return Err(invalid("quantization_config.format_version", &expected, &version));
        }
        [Precision::Bf16, Precision::Int8]
            .into_iter()
            .find(|found| precision == found.name())
            .ok_or_else(|| invalid("quantization_config.precision", "`bf16` or `int8`", &precision))
    }

    fn family(&mut self) -> Result<Family, ConfigError> {
        let Some(found) = self.take("model_type") else { return Err(ConfigError::Missing { key: "model_type" }) };
        found.as_str().and_then(|name| name.parse().ok()).ok_or_else(|| {
            let known = Family::ALL.map(|family| format!("`{family}`"));
            invalid("model_type", &format!("one of {}", known.join(", ")), &found)
        })
    }

    fn encoder(&mut self, family: Family) -> Result<EncoderConfig, ConfigError> {
        let (keys, defaults) = (family.keys(), EncoderConfig::defaults(family));
        let hidden = self.size(keys.hidden, defaults.hidden)?;
        let embedding_size = match family.has_embedding_size() {
            true => self.size(&["embedding_size"], defaults.embedding_size)?,
            false => hidden,
        };
        let layers = self.size(keys.layers, defaults.layers)?;
        let pad_token_id = self.token_id("pad_token_id", defaults.pad_token_id)?;
        let (max_positions, position_offset) = self.positions(family, pad_token_id)?;
        let config = EncoderConfig {
            vocab_size: self.size(&["vocab_size"], defaults.vocab_size)?,
            hidden,
            embedding_size,
            projects_embeddings: defaults.projects_embeddings || embedding_size != hidden,
            layers,
            layer_groups: if family == Family::Albert { self.layer_groups(layers)? } else { layers },
            heads: self.size(keys.heads, defaults.heads)?,
            ffn: self.size(keys.ffn, defaults.ffn)?,
            max_positions,
            position_offset,
            activation: self.activation(keys.activation, defaults.activation)?,
            dropout: self.probability(keys.dropout, defaults.dropout)?,
            attention_dropout: self.probability(keys.attention_dropout, defaults.attention_dropout)?,
            initializer_range: self.positive("initializer_range", defaults.initializer_range)?,
            pad_token_id,
            ..match family {
                Family::DistilBert => {
                    EncoderConfig { sinusoidal_positions: self.flag("sinusoidal_pos_embds")?, ..defaults }
                }
                _ => EncoderConfig {
                    token_types: self.size(&["type_vocab_size"], defaults.token_types)?,
                    layer_norm_eps: self.positive("layer_norm_eps", defaults.layer_norm_eps)?,
                    ..defaults
                },
            }
        };
        if let Some(found) = self.take("position_embedding_type").filter(|found| found != "absolute") {
            return Err(invalid("position_embedding_type", "`absolute`", &found));
        }
        if let Some(found) = self.take("is_decoder").filter(|found| found != &Value::Bool(false)) {
            return Err(invalid("is_decoder", "false", &found));
        }
        if !config.hidden.is_multiple_of(config.heads) {
            let found = format!("{} heads for a width of {}", config.heads, config.hidden);
            return Err(ConfigError::Invalid { key: keys.heads[0], expected: "a divisor of the width".into(), found });
        }
        // Tables of weights are laid out from these numbers alone, before there is a tensor to compare them with.
        if layers > MOST_LAYERS {
            let expected = format!("at most {MOST_LAYERS} layers");
            return Err(ConfigError::Invalid { key: keys.layers[0], expected, found: layers.to_string() });
        }
        let parameters = config.matrix_parameters();
        if parameters > MOST_PARAMETERS {
            let expected = format!("sizes that make at most {MOST_PARAMETERS} parameters");
            return Err(ConfigError::Invalid { key: keys.hidden[0], expected, found: parameters.to_string() });
        }
        if let Some(pad) = config.pad_token_id.filter(|&pad| pad as usize >= config.vocab_size) {
            let expected = format!("below the vocabulary size {}", config.vocab_size);
            return Err(ConfigError::Invalid { key: "pad_token_id", expected, found: pad.to_string() });
        }
        Ok(config)
    }

    /// The longest sequence, and the row of the position table that its first token takes.
    fn positions(&mut self, family: Family, pad_token_id: Option<u32>) -> Result<(usize, usize), ConfigError> {
        const KEY: &str = "max_position_embeddings";
        let rows = self.size(&[KEY], 512)?;
        let offset = match (family.positions_follow_padding(), pad_token_id) {
            (false, _) => 0,
            (true, Some(pad)) => pad as usize + 1,
            (true, None) => {
                return Err(invalid("pad_token_id", "a token id, behind which positions are counted", &Value::Null));
            }
        };
        if rows <= offset {
            let expected = format!("more than {offset}: positions are counted behind `pad_token_id`");
            return Err(ConfigError::Invalid { key: KEY, expected, found: rows.to_string() });
        }
        Ok((rows - offset, offset))
    }

    /// ALBERT's layers that have weights of their own.
    fn layer_groups(&mut self, layers: usize) -> Result<usize, ConfigError> {
        let inner = self.size(&["inner_group_num"], 1)?;
        if inner != 1 {
            return Err(invalid("inner_group_num", "1 (groups of several layers are not implemented)", &json!(inner)));
        }
        let groups = self.size(&["num_hidden_groups"], 1)?;
        if !layers.is_multiple_of(groups) {
            let expected = format!("a divisor of the {layers} layers");
            return Err(ConfigError::Invalid { key: "num_hidden_groups", expected, found: groups.to_string() });
        }
        Ok(groups)
    }

    /// The head named by `architectures`; without that key, none.
    fn head(&mut self, family: Family) -> Result<(HeadKind, bool), ConfigError> {
        let class = match self.take("architectures") {
            None | Some(Value::Null) => format!("{}Model", family.class()),
            Some(Value::Array(names)) if names.len() == 1 && names[0].is_string() => {
                names[0].as_str().unwrap_or_default().to_owned()
            }
            Some(found) => return Err(invalid("architectures", "a list of one class name", &found)),
        };
        match class.strip_prefix(family.class()) {
            Some("Model") => Ok((HeadKind::None, family.has_pooler())),
            // ELECTRA's discriminator: nothing here tells replaced tokens, but its encoder is what is fine-tuned.
            Some("ForPreTraining") if family == Family::Electra => Ok((HeadKind::None, false)),
            // A file of BERT's or ALBERT's own pre-training also holds a head over pairs, which nothing here uses.
            Some("ForPreTraining") if matches!(family, Family::Bert | Family::Albert) => {
                Ok((HeadKind::MaskedLm, false))
            }
            Some("ForMaskedLM") => Ok((HeadKind::MaskedLm, false)),
            Some("ForSequenceClassification") => Ok((self.classification()?, false)),
            Some("ForTokenClassification") => Ok((HeadKind::TokenClassification { labels: self.labels()? }, false)),
            Some("ForQuestionAnswering") => Ok((self.question_answering()?, false)),
            Some(INTENTS_AND_SLOTS) => {
                Ok((HeadKind::IntentsAndSlots { intents: self.labels()?, slots: self.slot_labels()? }, false))
            }
            _ => {
                let heads = [
                    "Model",
                    "ForMaskedLM",
                    "ForSequenceClassification",
                    "ForTokenClassification",
                    "ForQuestionAnswering",
                ];
                let expected = format!("{} followed by one of {}", family.class(), heads.join(", "));
                Err(ConfigError::Invalid { key: "architectures", expected, found: format!("`{class}`") })
            }
        }
    }

    /// The names of the outputs.
    fn labels(&mut self) -> Result<Vec<String>, ConfigError> {
        self.take("label2id");
        let count = match self.take("num_labels") {
            None | Some(Value::Null) => None,
            Some(value) => Some(
                value
                    .as_u64()
                    .filter(|&count| (1..=1 << 20).contains(&count))
                    .ok_or_else(|| invalid("num_labels", "a positive count", &value))? as usize,
            ),
        };
        let labels = match self.take("id2label") {
            None | Some(Value::Null) => (0..count.unwrap_or(2)).map(|id| format!("LABEL_{id}")).collect(),
            Some(Value::Object(names)) => (0..names.len())
                .map(|id| names.get(&id.to_string()).and_then(Value::as_str).map(str::to_owned))
                .collect::<Option<Vec<_>>>()
                .filter(|labels| !labels.is_empty())
                .ok_or_else(|| invalid("id2label", "a name for each id from \"0\"", &Value::Object(names)))?,
            Some(found) => return Err(invalid("id2label", "an object", &found)),
        };
        if let Some(count) = count.filter(|&count| count != labels.len()) {
            let expected = format!("{} as in `id2label`", labels.len());
            return Err(ConfigError::Invalid { key: "num_labels", expected, found: count.to_string() });
        }
        Ok(labels)
    }

    fn slot_labels(&mut self) -> Result<Vec<String>, ConfigError> {
        let found = self.take(SLOT_LABELS).ok_or(ConfigError::Missing { key: SLOT_LABELS })?;
        let names = found.as_array().map(|names| names.iter().map(|name| Some(name.as_str()?.to_owned())).collect());
        let names: Option<Vec<String>> = names.flatten();
        names.filter(|names| !names.is_empty()).ok_or_else(|| invalid(SLOT_LABELS, "a list of names", &found))
    }

    /// Its two outputs need no names.
    fn question_answering(&mut self) -> Result<HeadKind, ConfigError> {
        match self.labels()?.len() {
            2 => Ok(HeadKind::QuestionAnswering),
            found => {
                let expected = "2 of question answering: start and end".to_owned();
                Err(ConfigError::Invalid { key: "id2label", expected, found: format!("{found} labels") })
            }
        }
    }

    fn classification(&mut self) -> Result<HeadKind, ConfigError> {
        let labels = self.labels()?;
        let problem = match self.take("problem_type") {
            None | Some(Value::Null) if labels.len() == 1 => Problem::Regression,
            None | Some(Value::Null) => Problem::Classification,
            Some(name) => [Problem::Classification, Problem::MultiLabel, Problem::Regression]
                .into_iter()
                .find(|&problem| name == problem_type(problem))
                .ok_or_else(|| {
                    let expected = "`single_label_classification`, `multi_label_classification` or `regression`";
                    invalid("problem_type", expected, &name)
                })?,
        };
        Ok(HeadKind::Classification { problem, labels })
    }

    fn take(&mut self, key: &str) -> Option<Value> {
        self.0.shift_remove(key)
    }

    /// The first of `keys` that is there; the others are aliases.
    fn size(&mut self, keys: &[&'static str], default: usize) -> Result<usize, ConfigError> {
        let values: Vec<_> = keys.iter().filter_map(|&key| Some((key, self.take(key)?))).collect();
        let Some((key, value)) = values.into_iter().next() else { return Ok(default) };
        // The bound keeps every product of two sizes inside a usize, so that shapes cannot overflow.
        match value.as_u64() {
            Some(size @ 1..=0x7fff_ffff) => Ok(size as usize),
            _ => Err(invalid(key, "a positive 31-bit number", &value)),
        }
    }

    fn probability(&mut self, key: &'static str, default: f32) -> Result<f32, ConfigError> {
        self.real(key, default, "a probability below 1", |x| (0.0..1.0).contains(&x))
    }

    fn positive(&mut self, key: &'static str, default: f32) -> Result<f32, ConfigError> {
        self.real(key, default, "a positive number", |x| x > 0.0 && x.is_finite())
    }

    fn real(
        &mut self,
        key: &'static str,
        default: f32,
        expected: &str,
        accepts: impl Fn(f32) -> bool,
    ) -> Result<f32, ConfigError> {
        match self.take(key) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => {
                value.as_f64().map(|x| x as f32).filter(|&x| accepts(x)).ok_or_else(|| invalid(key, expected, &value))
            }
        }
    }

    fn flag(&mut self, key: &'static str) -> Result<bool, ConfigError> {
        match self.take(key) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(found) => Err(invalid(key, "true or false", &found)),
        }
    }

    fn token_id(&mut self, key: &'static str, default: Option<u32>) -> Result<Option<u32>, ConfigError> {
        match self.take(key) {
            None => Ok(default),
            Some(Value::Null) => Ok(None),
            Some(value) => {
                let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
                id.map(Some).ok_or_else(|| invalid(key, "a token id or null", &value))
            }
        }
    }

    fn activation(&mut self, key: &'static str, default: Activation) -> Result<Activation, ConfigError> {
        match self.take(key) {
            None => Ok(default),
            Some(Value::String(name)) if name == "gelu" => Ok(Activation::Gelu),
            Some(Value::String(name)) if name == "gelu_new" || name == "gelu_pytorch_tanh" => Ok(Activation::GeluNew),
            Some(found) => Err(invalid(key, "`gelu`, `gelu_new` or `gelu_pytorch_tanh`", &found)),
        }
    }
}

fn invalid(key: &'static str, expected: &str, found: &Value) -> ConfigError {
    // A foreign value may be long: enough of it to recognise.
    let mut found = found.to_string();
    if let Some((end, _)) = found.char_indices().nth(80) {
        found.truncate(end);
        found.push('…');
    }
    ConfigError::Invalid { key, expected: expected.to_owned(), found }
}

#[cfg(test)]
mod tests {
    use super::*;
    use distilbert_kernels::Runtime;

    fn read(text: &str) -> Result<ModelConfig, String> {
        ModelConfig::from_json(text).map_err(|error| error.to_string())
    }

    #[test]
    fn a_layer_too_wide_for_the_sums_of_int8_is_refused_with_both_numbers() {
        let rt = Runtime::new(distilbert_kernels::Isa::Portable, 1).unwrap();
        let wide = read(r#"{"model_type":"distilbert","hidden_dim":66312}"#).unwrap();
        assert!(wide.check_precision(&rt, Precision::F32).is_ok());
        let error = wide.check_precision(&rt, Precision::Int8).unwrap_err().to_string();
        assert!(error.contains("66311") && error.contains("66312"), "{error}");
        let fits = read(r#"{"model_type":"distilbert","hidden_dim":66311}"#).unwrap();
        assert!(fits.check_precision(&rt, Precision::Int8).is_ok());
    }

    #[test]
    fn a_written_config_reads_back_as_itself() {
        for text in [
            r#"{"model_type":"bert","architectures":["BertModel"],"hidden_size":24,"num_attention_heads":3,"use_cache":true}"#,
            r#"{"model_type":"distilbert","architectures":["DistilBertForMaskedLM"],"dim":24,"n_heads":3,"dropout":0.25}"#,
            r#"{"model_type":"distilbert","architectures":["DistilBertForSequenceClassification"],"id2label":{"0":"a","1":"b"}}"#,
            r#"{"model_type":"distilbert","architectures":["DistilBertForTokenClassification"],"id2label":{"0":"O","1":"B-X"}}"#,
            r#"{"model_type":"bert","architectures":["BertForTokenClassification"],"num_labels":5}"#,
            r#"{"model_type":"distilbert","architectures":["DistilBertForQuestionAnswering"],"qa_dropout":0.25}"#,
            r#"{"model_type":"bert","architectures":["BertForQuestionAnswering"]}"#,
            r#"{"model_type":"bert","quantization_config":{"format":"distilbert","format_version":1,"precision":"int8"}}"#,
            r#"{"model_type":"roberta","architectures":["RobertaForMaskedLM"],"max_position_embeddings":514,"type_vocab_size":1}"#,
            r#"{"model_type":"xlm-roberta","architectures":["XLMRobertaModel"],"pad_token_id":3}"#,
            r#"{"model_type":"electra","architectures":["ElectraForSequenceClassification"],"embedding_size":24}"#,
            r#"{"model_type":"albert","architectures":["AlbertForMaskedLM"],"num_hidden_layers":6,"num_hidden_groups":3}"#,
        ] {
            let config = read(text).unwrap();
            assert_eq!(read(&config.to_json()).unwrap(), config, "{text}");
        }
    }

    #[test]
    fn aliases_and_defaults_are_those_of_the_family() {
        let config = read(r#"{"model_type":"distilbert","hidden_size":96,"num_attention_heads":6}"#).unwrap();
        assert_eq!((config.encoder.hidden, config.encoder.heads, config.encoder.layers), (96, 6, 6));
        assert_eq!((config.classifier_dropout, config.encoder.token_types), (0.2, 0));
        let config = read(r#"{"model_type":"bert"}"#).unwrap();
        assert_eq!((config.encoder.token_types, config.encoder.layers, config.pooler), (2, 12, true));
        let config = read(r#"{"model_type":"roberta","max_position_embeddings":514}"#).unwrap();
        assert_eq!((config.encoder.max_positions, config.encoder.position_offset), (512, 2));
        let electra = |text| read(text).unwrap().encoder.projects_embeddings;
        assert!(electra(r#"{"model_type":"electra"}"#));
        assert!(!electra(r#"{"model_type":"electra","embedding_size":256}"#));
        let config = read(r#"{"model_type":"albert","hidden_size":128,"num_attention_heads":4}"#).unwrap();
        assert_eq!((config.encoder.layers, config.encoder.layer_groups), (12, 1));
        assert!(config.encoder.projects_embeddings && config.encoder.activation == Activation::GeluNew);
        let config = read(r#"{"model_type":"electra","architectures":["ElectraForPreTraining"]}"#).unwrap();
        assert_eq!((config.head, config.pooler), (HeadKind::None, false));
    }

    #[test]
    fn each_head_has_the_dropout_of_its_family() {
        for (text, expected) in [
            (r#"{"model_type":"bert","architectures":["BertForTokenClassification"],"classifier_dropout":0.3}"#, 0.3),
            (r#"{"model_type":"bert","architectures":["BertForTokenClassification"],"hidden_dropout_prob":0.2}"#, 0.2),
            (r#"{"model_type":"bert","architectures":["BertForQuestionAnswering"],"hidden_dropout_prob":0.2}"#, 0.0),
            (r#"{"model_type":"distilbert","architectures":["DistilBertForTokenClassification"],"dropout":0.3}"#, 0.3),
            (r#"{"model_type":"distilbert","architectures":["DistilBertForQuestionAnswering"]}"#, 0.1),
            (r#"{"model_type":"distilbert","architectures":["DistilBertForSequenceClassification"]}"#, 0.2),
        ] {
            assert_eq!(read(text).unwrap().head_dropout(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_not_implemented_is_refused_by_name() {
        for (text, message) in [
            ("{", "config: EOF while parsing an object at line 1 column 1"),
            ("{}", "config: `model_type` is missing"),
            (
                r#"{"model_type":"gpt2"}"#,
                "config: `model_type`: expected one of `bert`, `distilbert`, `roberta`, `xlm-roberta`, `electra`, `albert`, found \"gpt2\"",
            ),
            (
                r#"{"model_type":"roberta","max_position_embeddings":2}"#,
                "config: `max_position_embeddings`: expected more than 2: positions are counted behind `pad_token_id`, found 2",
            ),
            (
                r#"{"model_type":"xlm-roberta","pad_token_id":null}"#,
                "config: `pad_token_id`: expected a token id, behind which positions are counted, found null",
            ),
            (
                r#"{"model_type":"albert","inner_group_num":2}"#,
                "config: `inner_group_num`: expected 1 (groups of several layers are not implemented), found 2",
            ),
            (
                r#"{"model_type":"albert","num_hidden_groups":5}"#,
                "config: `num_hidden_groups`: expected a divisor of the 12 layers, found 5",
            ),
            (
                r#"{"model_type":"roberta","architectures":["RobertaForPreTraining"]}"#,
                "config: `architectures`: expected Roberta followed by one of Model, ForMaskedLM, ForSequenceClassification, ForTokenClassification, ForQuestionAnswering, found `RobertaForPreTraining`",
            ),
            (
                r#"{"model_type":"bert","hidden_size":0}"#,
                "config: `hidden_size`: expected a positive 31-bit number, found 0",
            ),
            (
                r#"{"model_type":"distilbert","n_layers":2000000000}"#,
                "config: `n_layers`: expected at most 1024 layers, found 2000000000",
            ),
            (
                r#"{"model_type":"albert","num_hidden_layers":100000}"#,
                "config: `num_hidden_layers`: expected at most 1024 layers, found 100000",
            ),
            (
                r#"{"model_type":"bert","hidden_size":2147483646,"num_attention_heads":2}"#,
                "config: `hidden_size`: expected sizes that make at most 4294967296 parameters, found 221361153451174448712",
            ),
            (
                r#"{"model_type":"bert","vocab_size":2000000000}"#,
                "config: `hidden_size`: expected sizes that make at most 4294967296 parameters, found 1536085329408",
            ),
            (
                r#"{"model_type":"bert","num_attention_heads":7}"#,
                "config: `num_attention_heads`: expected a divisor of the width, found 7 heads for a width of 768",
            ),
            (
                r#"{"model_type":"distilbert","n_heads":7}"#,
                "config: `n_heads`: expected a divisor of the width, found 7 heads for a width of 768",
            ),
            (
                r#"{"model_type":"bert","hidden_act":"silu"}"#,
                "config: `hidden_act`: expected `gelu`, `gelu_new` or `gelu_pytorch_tanh`, found \"silu\"",
            ),
            (
                r#"{"model_type":"bert","position_embedding_type":"relative_key"}"#,
                "config: `position_embedding_type`: expected `absolute`, found \"relative_key\"",
            ),
            (
                r#"{"model_type":"bert","architectures":["BertForMultipleChoice"]}"#,
                "config: `architectures`: expected Bert followed by one of Model, ForMaskedLM, ForSequenceClassification, ForTokenClassification, ForQuestionAnswering, found `BertForMultipleChoice`",
            ),
            (
                r#"{"model_type":"bert","architectures":["BertForQuestionAnswering"],"num_labels":3}"#,
                "config: `id2label`: expected 2 of question answering: start and end, found 3 labels",
            ),
            (
                r#"{"model_type":"bert","hidden_dropout_prob":1}"#,
                "config: `hidden_dropout_prob`: expected a probability below 1, found 1",
            ),
            (
                r#"{"model_type":"bert","quantization_config":8}"#,
                "config: `quantization_config`: expected an object, found 8",
            ),
            (
                r#"{"model_type":"bert","quantization_config":{"quant_method":"bitsandbytes"}}"#,
                "config: `quantization_config.format`: expected `distilbert`, the only one read here, found null",
            ),
            (
                r#"{"model_type":"bert","quantization_config":{"format":"distilbert","format_version":2}}"#,
                "config: `quantization_config.format_version`: expected 1, the only one this program knows, found 2",
            ),
            (
                r#"{"model_type":"bert","quantization_config":{"format":"distilbert","format_version":1,"precision":"f32"}}"#,
                "config: `quantization_config.precision`: expected `bf16` or `int8`, found \"f32\"",
            ),
        ] {
            assert_eq!(read(text).unwrap_err(), message);
        }
    }
}
