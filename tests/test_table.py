"""Tables as they come: what is read, what is refused, and the likelihood of their rows."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from small_models import SMALL, trainer
from torch.distributions import Bernoulli, Categorical, Independent, Normal

from datamodules import Table
from datamodules.table_files import read_table
from lightning_avb import AVB, GAN, VAE, Batch, GaussianDecoder, SemiImplicitEncoder, TableDecoder, load
from lightning_avb.checkpoints import load_datamodule
from lightning_avb.distributions import TableEntries
from lightning_avb.errors import ConfigurationError

ROWS = 60
GENERATOR = np.random.default_rng(0)
PEOPLE = pd.DataFrame(
    {
        "age": GENERATOR.integers(18, 90, ROWS),
        "sex": GENERATOR.choice(["f", "m"], ROWS),
        "site": GENERATOR.choice(["north, upper", "south", "west"], ROWS),
        "income": np.exp(GENERATOR.normal(10, 1, ROWS)),
        "kids": np.arange(ROWS) % 4,
        "smoker": GENERATOR.random(ROWS) < 0.5,
        "diagnosis": GENERATOR.choice(["sick", "well"], ROWS),
    }
)
PEOPLE.loc[::7, "income"] = np.nan
PEOPLE.loc[::5, "site"] = None


@pytest.fixture
def people(tmp_path):
    PEOPLE.to_csv(tmp_path / "people.csv")
    data = Table(str(tmp_path / "people.csv"), label="diagnosis", log=["income"], batch_size=20)
    data.setup("fit")
    return data


def text(tmp_path, content, written="utf-8", **options):
    path = tmp_path / "table.csv"
    path.write_bytes(content.encode(written))
    data = Table(str(path), batch_size=2, **options)
    data.setup("fit")
    return data


def refused(tmp_path, content, written="utf-8", **options):
    with pytest.raises(ConfigurationError) as error:
        text(tmp_path, content, written, **options)
    return str(error.value)


def kinds(data):
    return {column.name: column.kind for column in data.format}


def lines(*fields):
    """A column x of these fields beside one of numbers."""
    return "x,n\n" + "".join(f"{field},{number * 1.5}\n" for number, field in enumerate(fields))


# What columns hold.


def test_what_pandas_wrote_is_read_as_it_is_meant(people):
    """Its index is no column of the data, and the label is none."""
    assert kinds(people) == {
        "age": "number",
        "sex": "binary",
        "site": "category",
        "income": "number",
        "kids": "category",
        "smoker": "binary",
    }
    assert [column.masked for column in people.format] == [False, False, True, True, False, False]
    assert people.data_shape == (1 + 1 + 3 + 1 + 4 + 1 + 2,) and people.label_names == ["sick", "well"]


def test_rows_come_back_in_the_terms_of_the_table(people):
    split = people.split("train")
    found = people.to_rows(split.x)
    expected = PEOPLE.iloc[people.load()["train"].rows.numpy()].reset_index(drop=True)
    assert (found["site"].isna() == expected["site"].isna()).all() and found["site"].isna().any()
    assert (found["site"].dropna() == expected["site"].dropna()).all()
    assert found["age"].tolist() == expected["age"].tolist()
    assert found["kids"].tolist() == expected["kids"].tolist() and found["kids"].dtype == "Int64"
    assert found["smoker"].tolist() == expected["smoker"].tolist() and found["smoker"].dtype == "boolean"
    assert np.allclose(found["income"].astype(float), expected["income"], rtol=1e-5, equal_nan=True)
    torch.testing.assert_close(people.from_rows(found), split.x, rtol=1e-5, atol=1e-5)


def test_numbers_are_standardised_in_the_training_rows(people):
    x = people.split("train").x
    income = people.format[3]
    column = x[:, 5][x[:, -1] == 1]
    assert income.log and income.mean == pytest.approx(10, abs=0.5)
    assert column.mean().abs() < 1e-5 and column.std(correction=0) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ("0,1,2\n0.5,1.5,2.5\n1.5,3.5,7.5\n5.5,1.5,2.0\n4.5,2,1\n", ["0", "1", "2"]),
        (",0,1\n0,0.5,1.5\n1,1.5,3.5\n2,5.5,2.5\n3,7.5,2\n", ["0", "1"]),
        ("0.5,1.5\n1.5,3.5\n5.5,2.5\n4.5,2\n", ["0", "1"]),
        ("a;b\n0,5;1,5\n1,5;3,5\n5,5;2,5\n4,5;2,0\n", ["a", "b"]),
        ("a\tb\n0.5\t1.5\n1.5\t3.5\n5.5\t2.5\n4.5\t2\n", ["a", "b"]),
        (",1990,2000\n0,0.5,1.5\n1,1.5,3.5\n2,5.5,2.5\n3,7.5,2\n", ["1990", "2000"]),
        (",a,b\nMazda RX4,0.5,1.5\nDuster,1.5,3.5\nValiant,5.5,2.5\nFiat 128,7.5,2\n", ["a", "b"]),
        ('"a" "b"\n"1" 0.5 1.5\n"2" 1.5 3.5\n"3" 5.5 2.5\n"4" 7.5 2\n', ["a", "b"]),
        ("a,b\nx 1,0.5,1.5\nx 2,1.5,3.5\nx 3,5.5,2.5\nx 4,7.5,2\n", ["a", "b"]),
        ("a;b\n1,5e+19;-1,5\n2,007E+19;2\n5e18;2,5\n1,25e+19;7,5\n", ["a", "b"]),
        ("a;n\n-1.25;1,000\n1.5;1,001\n2.5;1,002\n0.5;1,003\n", ["a", "n"]),
        ("0,5;1,5\n1,5;3,5\n5,5;2\n4,5;7,5\n", ["0", "1"]),
        ("\ufeffa,b\r\n0.5,1.5\r\n1.5,3.5\r\n5.5,2.5\r\n4.5,2\r\n\r\n", ["a", "b"]),
    ],
)
def test_headers_and_delimiters(tmp_path, content, names):
    data = text(tmp_path, content)
    assert data.columns == names and {*kinds(data).values()} == {"number"}
    assert data.rows("train") + data.rows("val") + data.rows("test") == 4


FRACTIONS = "0.5,1.5\n1.5,3.5\n5.5,2.5\n4.5,2\n"
WHOLE = "5,4\n6,7\n1,9\n2,8\n"
WORDS = "bob,a\neve,b\nbob,b\neve,a\n"


@pytest.mark.parametrize(
    ("content", "named", "certain"),
    [
        (f"2019,2020\n{FRACTIONS}", True, False),
        (f"2019,2020\n{WHOLE}", False, False),
        (f"2019,2019\n{WHOLE}", False, True),
        (f"x,2020\n{WHOLE}", True, False),
        (f"?,3.5\n{FRACTIONS}", False, True),
        (f"x,y\n{WHOLE}", True, True),
        (f"x,y\n{WORDS}", True, False),
    ],
)
def test_whether_a_first_line_names_columns_is_seen_by_what_stands_below(tmp_path, content, named, certain):
    """Where it is not certain, a line says what was decided, and how to say the opposite."""
    path = tmp_path / "table.csv"
    path.write_text(content)
    frame, _, notes = read_table(path)
    first = content.partition("\n")[0].split(",")
    assert list(frame.columns) == (first if named else ["0", "1"])
    if certain:
        assert not notes
    else:
        (note,) = notes
        assert f"({first[0]}, {first[1]}) is taken for {'the names' if named else 'a row'}" in note
        assert note.endswith(f"data.header: {str(not named).lower()}")
        assert list(read_table(path, header=not named)[0].columns) == (["0", "1"] if named else first)


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ("city\nNew York\nLos Angeles\nSan Diego\n", ["city"]),
        ("New York\nLos Angeles\nSan Diego\n", ["New York"]),
        ("a  b\n1  2\n3  4\n", ["a", "b"]),
        ("a\n1 2\n2 4\n", ["", "a"]),
    ],
)
def test_words_are_not_columns(tmp_path, content, names):
    """Blanks are a delimiter only where they make a table; a line that ends with a delimiter has no names of rows."""
    path = tmp_path / "table.txt"
    path.write_text(content)
    assert list(read_table(path)[0].columns) == names


@pytest.mark.parametrize(("empty", "count"), [(",\n,\n", 2), ("\n  \n", 1), (" , \n\n\n", 1)])
def test_rows_without_any_field_are_left_out(tmp_path, empty, count):
    path = tmp_path / "table.csv"
    path.write_text(f"a,b\n1,2\n{empty}3,4\n{empty}")
    frame, _, (note,) = read_table(path)
    assert frame["a"].tolist() == ["1", "3"] and f"{2 * count} lines without any field" in note


def test_a_float_matrix_of_zeros_and_ones_is_binary():
    data = Table.of((GENERATOR.random((40, 3)) < 0.5).astype(float), batch_size=10)
    data.setup("fit")
    assert {*kinds(data).values()} == {"binary"}


def test_some_columns_alone_can_be_asked_for(tmp_path):
    content = " a ,b,c,y\n" + "".join(f"{i}.5,{i % 3}.5,{i % 7}.5,{i % 2}\n" for i in range(40))
    assert text(tmp_path, content, columns=["c", " a"]).columns == ["a", "c"]
    data = text(tmp_path, content, columns=["b", "y"], label="y ", log="b", types={"b ": "number"}, missing="0.5")
    assert data.columns == ["b"] and data.format[0].log and data.classes == 2
    assert text(tmp_path, content, columns="c").columns == ["c"]
    assert text(tmp_path, content, drop="c ").columns == ["a", "b", "y"]
    for options, key in (({"columns": ["d"]}, "columns"), ({"columns": "a", "log": "b"}, "log")):
        assert f"data.{key}: there is no column" in refused(tmp_path, content, **options)


def test_names_are_the_same_from_a_file_and_in_memory(tmp_path):
    """Without the blanks around them."""
    content = " a ,b\n" + "".join(f"{i}.5,{i % 3}.5\n" for i in range(40))
    data = text(tmp_path, content)
    frame = pd.read_csv(tmp_path / "table.csv")
    assert list(frame.columns) == [" a ", "b"] and data.from_rows(frame).shape == (40, 2)
    frame.to_parquet(tmp_path / "table.parquet")
    for other in (Table.of(frame), Table(str(tmp_path / "table.parquet"))):
        other.setup("fit")
        assert other.columns == ["a", "b"] and torch.equal(other.from_rows(frame), data.from_rows(frame))
    with pytest.raises(ConfigurationError, match="more than one column named 'a'"):
        Table.of(frame.assign(a=1))


def test_what_is_printed_keeps_to_its_lines(tmp_path):
    """A line break in a value; values and names with commas; a range that is too long; a counter; a huge number."""
    words = ['"x\ny"', '"a, b"']
    rows = [(1000 + i, words[i % 2], 10**16 * i, ["no", "long" * 10][i % 2]) for i in range(40)]
    data = text(tmp_path, 'n,"c, d",huge,word\n' + "".join(",".join(map(str, row)) + "\n" for row in rows))
    printed = data._found.splitlines()
    assert len(printed) == 2 + 4 + 1 and printed[0].startswith("data: 40 rows in")
    assert "mean or most frequent" in printed[1] and "'c, d'" in printed[3] and r"'a, b', 'x\ny'" in printed[3]
    assert "…" in printed[5] and "…" not in printed[3]
    assert printed[6] == "data: 'n' looks like a counter of the rows; leave it out: data.drop: [n]"
    assert not data.format[2].whole and data.format[0].whole


def test_what_tells_nothing_is_left_out(tmp_path, capsys):
    rows = [f"{i},{i % 5}.5,7,," for i in range(1, 41)]
    data = text(tmp_path, "\n".join(["id,a,b,c,d", *rows]))
    assert data.columns == ["a"]


def test_types_can_be_set(tmp_path):
    content = "a,b\n" + "".join(f"{i % 3},{i % 4}\n" for i in range(40))
    assert kinds(text(tmp_path, content)) == {"a": "category", "b": "category"}
    assert kinds(text(tmp_path, content, types={"b": "number"}, drop=["a"])) == {"b": "number"}


# What is refused, in one message.


def test_all_fields_that_are_no_numbers_are_named(tmp_path):
    said = refused(tmp_path, lines(1, 2, "?", 4, 5, "unknown", 7))
    assert "'x' has 2 fields" in said and "line 4: '?', line 7: 'unknown'" in said and "data.missing" in said
    assert kinds(text(tmp_path, lines(1, 2, "?", 4, 5, "unknown", 7), missing=["?", "unknown"]))["x"] == "number"


def test_all_columns_that_cannot_be_used_are_named(tmp_path):
    names = [f"Person {i}" for i in range(30)]
    content = "who,when,n\n" + "".join(f"{name},2024-01-{i % 28 + 1:02},{i}.5\n" for i, name in enumerate(names))
    said = refused(tmp_path, content)
    assert "'who' has 30 different texts" in said and "'when' holds dates" in said and "data.drop: [when]" in said


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (lines(1, 2, "inf", 4, 5), {}, "line 4: 'inf'"),
        ("a,a\n1,2\n", {}, "more than one column named 'a'"),
        ("a,b\n1,2,\n3,4,\n", {}, r"2 of 3 lines do not have the 2 fields of the first"),
        ("a,b\n1,2\n1\n1,2,3\n", {}, r"2 of 4 lines do not have the 2 fields of the first \(line 3: 1, line 4: 3\)"),
        ("a,b\n", {}, "has no rows"),
        ("", {}, "is empty"),
        (lines(1.5, 2, -3, 4), {"log": ["x"]}, "'x' has the value -3"),
        (lines("a", "b", "c", "a"), {"log": "x"}, "'x' has the values a, b, c, and data.log takes logarithms"),
        (lines(1, 2, 1, 2), {"log": "x"}, "'x' has the values 1, 2, and data.log"),
        (lines(1, 2, 3), {"val_share": 0}, "data.val_share: 0 is no share above 0 and below 1, such as 0.1"),
        (",x\n" + lines(1, 2, 3)[4:], {"drop": ["y"]}, "there are '', x$"),
        (lines(1, 2, 3), {"drop": ["N"]}, "data.drop: there is no column 'N'; there are x, n; did you mean n"),
        (lines(1, 2, 3), {"label": "nn"}, "data.label: there is no column 'nn'; there are x, n"),
        (lines(1, 2, 3), {"types": {"x": "numeric"}}, "'numeric' is none of number, binary, category"),
        (lines(1, 2, 3), {"types": {"x": "binary"}}, "'binary', and it has 3 values: 1, 2, 3"),
    ],
)
def test_clear_words(tmp_path, content, options, message):
    with pytest.raises(ConfigurationError, match=message):
        text(tmp_path, content, **options)


def test_another_encoding(tmp_path):
    content = lines("süd", "nord", "süd", "nord", "süd")
    said = refused(tmp_path, content, "latin-1")
    assert "line 2: byte 0xfc" in said and "data.encoding to cp1252; else try latin-1" in said
    assert text(tmp_path, content, "latin-1", encoding="latin-1").format[0].values == ("nord", "süd")
    assert text(tmp_path, content, "utf-16").format[0].values == ("nord", "süd")


@pytest.mark.parametrize("word", ["süd\x85", "s\x85üd", "süd\xa0", "s\u2028d", "süd\x1c"])
def test_letters_that_python_takes_for_blanks_or_line_breaks_are_kept(tmp_path, word):
    content = lines(word, "süd", word, "süd", word)
    encoding = "utf-8" if "\u2028" in word else "latin-1"
    assert {*text(tmp_path, content, encoding, encoding=encoding).format[0].values} == {word, "süd"}


def test_new_rows_that_a_column_cannot_hold(people):
    for change, message in (
        ({"site": "east"}, r"'site' has 3 fields that are none of 'north, upper', south, west \(row 0: 'east', row 1"),
        ({"age": None}, r"'age' has 3 .* empty, .* \(row 0, row 1, row 2\); .* no mask for it; `impute` fills it"),
        ({"income": -1.0}, "'income' .* not above 0.*; correct it, or leave it empty$"),
        ({"sex": "x", "age": "old"}, "^data: 'age' .* no finite number .* let `impute` fill it; 'sex' has 3 fields"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            people.from_rows(PEOPLE.iloc[:3].assign(**change))
    with pytest.raises(ConfigurationError, match="there is no column 'kids'"):
        people.from_rows(PEOPLE.drop(columns="kids"))


# The likelihood.


def decoder_of(data):
    decoder = TableDecoder(data.data_shape, 2, network=SMALL)
    torch.nn.init.normal_(decoder.log_scale)
    decoder.read_layout(data.layout)
    return decoder.double()


def test_log_p_of_a_row_is_the_sum_over_its_observed_fields(people):
    decoder, z = decoder_of(people), torch.randn(40, 2).double()
    x = people.split("train").x[:40].double()
    outputs, scale = decoder.network(z), decoder.least + decoder.log_scale.exp()
    age, income = people.format[0], people.format[3]
    frame = people.to_rows(x)
    years = (x[:, 0] * age.std + age.mean, torch.tensor(np.log(frame["income"].astype(float).to_numpy())))
    terms = [
        Normal(outputs[:, 0] * age.std + age.mean, scale[0] * age.std).log_prob(years[0]),
        Bernoulli(logits=outputs[:, 1]).log_prob(x[:, 1]),
        Categorical(logits=outputs[:, 2:5]).log_prob(x[:, 2:5].argmax(1)) * x[:, -2],
        torch.where(
            x[:, -1] == 1,
            (
                Normal(outputs[:, 5] * income.std + income.mean, scale[5] * income.std).log_prob(years[1].nan_to_num())
                - years[1].nan_to_num()
            ),
            0.0,
        ),
        Categorical(logits=outputs[:, 6:10]).log_prob(x[:, 6:10].argmax(1)),
        Bernoulli(logits=outputs[:, 10]).log_prob(x[:, 10]),
    ]
    torch.testing.assert_close(decoder(z).log_prob(x), torch.stack(terms).sum(0))


def test_a_missing_field_has_neither_weight_nor_gradient(people):
    decoder = decoder_of(people)
    x = people.split("train").x.double()
    x = x[(x[:, -1] == 0)][:3]
    outputs = torch.randn(3, x.shape[1]).double().requires_grad_()
    p = TableEntries(outputs, torch.ones(x.shape[1]).double(), decoder.layout)
    p.log_prob(x).sum().backward()
    gradient = outputs.grad
    assert gradient.isfinite().all() and (gradient[:, 5] == 0).all() and (gradient[:, -2:] == 0).all()
    assert (gradient[:, 0] != 0).all()


def test_draws_have_the_frequencies_of_their_distribution(people):
    decoder, count = decoder_of(people), 20000
    p = decoder(torch.randn(1, 2).double())
    x = p.sample((count,))[:, 0]
    assert (x[:, 2:5].sum(1) == 1).all() and (x[:, -2:] == 1).all()
    error = 5 * torch.maximum(x.std(0), torch.tensor(0.05)) / math.sqrt(count)
    assert ((x.mean(0) - p.mean[0]).abs() < error).all()
    assert isinstance(p, Independent) and p.base_dist.log_prob(x).shape == x.shape


def test_a_decoder_that_does_not_know_columns_is_refused(people, tmp_path):
    with pytest.raises(ConfigurationError, match=r"^decoder: the table has more than numbers, .* take TableDecoder"):
        trainer(tmp_path, max_steps=1).fit(VAE(2, decoder=GaussianDecoder), people)


def test_of_numbers_alone_both_decoders_report_the_same_units(tmp_path):
    data = Table.of(
        pd.DataFrame({"a": 100 * GENERATOR.normal(size=50), "b": 7 + GENERATOR.normal(size=50)}), batch_size=10
    )
    found = []
    for decoder in (GaussianDecoder, TableDecoder):
        model = VAE(2, decoder=decoder)
        trainer(tmp_path, max_steps=1).fit(model, data)
        found.append(model)
    gaussian, table = found
    table.decoder.network.load_state_dict(gaussian.decoder.network.state_dict())
    with torch.no_grad():
        table.decoder.log_scale.fill_((gaussian.decoder.log_scale.exp() - table.decoder.least).log().item())
    batch, z = Batch(data.split("train").x[:5]), torch.randn(1, 5, 2)
    torch.testing.assert_close(*(model.log_likelihood(batch, z) for model in found), rtol=1e-5, atol=1e-4)


# From end to end.


@pytest.mark.parametrize("name", ["vae", "avb", "gan"])
def test_models_of_a_table(name, people, tmp_path):
    models = {
        "vae": lambda: VAE(2, decoder=TableDecoder),
        "avb": lambda: AVB(2, encoder=SemiImplicitEncoder, decoder=TableDecoder),
        "gan": lambda: GAN(2, output="identity"),
    }
    run = trainer(tmp_path, max_steps=3, limit_val_batches=1)
    run.fit(models[name](), people)
    run.save_checkpoint(tmp_path / "some.ckpt")
    (tmp_path / "people.csv").unlink()
    data, model = load_datamodule(tmp_path / "some.ckpt"), load(tmp_path / "some.ckpt")
    frame = data.to_rows(model.sample(30, mean=False))
    assert list(frame.columns) == people.columns and {*frame["site"].dropna()} <= {"north, upper", "south", "west"}
    assert frame["kids"].dtype == "Int64" and data.from_rows(PEOPLE).shape == (ROWS, *people.data_shape)


def test_sampled_tables(command, tmp_path, people, monkeypatch, without_curves):
    monkeypatch.chdir(tmp_path)
    run = trainer(tmp_path, max_steps=3)
    run.fit(VAE(2, decoder=TableDecoder, conditional=True), people)
    run.save_checkpoint("some.ckpt")
    command("sample", "--ckpt_path", "some.ckpt", "--output", "new.csv", "--n", 8)
    found = pd.read_csv("new.csv")
    assert list(found.columns) == [*people.columns, "diagnosis"] and found["diagnosis"].tolist() == ["sick", "well"] * 4
    assert found["age"].dtype == int and {*found["site"]} <= {"north, upper", "south", "west"}
    command("sample", "--ckpt_path", "some.ckpt", "--output", "new.npz", "--n", 8)
    arrays = np.load("new.npz")
    assert arrays["diagnosis"].tolist() == ["sick", "well"] * 4 and arrays["income"].dtype == float
    assert arrays["smoker"].dtype == bool


def test_a_resumed_run_reads_columns_as_the_first_one_did(people, tmp_path):
    run = trainer(tmp_path, max_steps=2)
    run.fit(VAE(2, decoder=TableDecoder), people)
    run.save_checkpoint(tmp_path / "some.ckpt")
    again = Table(people.path, label="diagnosis", batch_size=20)  # without the logarithm
    model = VAE(2, decoder=TableDecoder)
    trainer(tmp_path, max_steps=3).fit(model, again, ckpt_path=tmp_path / "some.ckpt")
    assert again.format == people.format and bool(model.decoder.logged.any())


@pytest.mark.parametrize(("label", "name"), [(-1, "2020"), (0, "2019"), (2020, "2020"), ("2019", "2019")])
def test_the_label_by_number_or_by_a_name_that_is_a_number(tmp_path, label, name):
    content = "2019,x,2020\n" + "".join(f"{n % 2},{n}.5,{n % 2}\n" for n in range(10))
    data = text(tmp_path, content, header=True, label=label)
    assert data.label == name and data.columns == [other for other in ("2019", "x", "2020") if other != name]
