using System.Text;
using Parquet;
using Parquet.Data;
using Parquet.Schema;

namespace Hybrid.Runner.Formats;

/// <summary>
/// Parquet tables that name pictures (img2dataset's, which name them by key, or any with a column for the file) or hold them (a column
/// of bytes, as Hugging Face's image columns and img2dataset's parquet output have). Any of Parquet's compressions.
/// </summary>
internal static class ParquetTable
{
    private const int Patience = 60;
    private const long MostColumn = 1L << 31;
    private static readonly byte[] NotUtf8 = [0xFF];
    private static readonly string[] PictureColumns = ["image.bytes", "jpg", "jpeg", "png", "webp", "image", "image_bytes", "img.bytes", "img"];

    /// <summary>The pairs of a table whose pictures, where it only names them, are found by <paramref name="find"/>.</summary>
    public static IEnumerable<PairEvent> Pairs(string path, Func<string, string?> find, PairReading reading)
    {
        string stem = Path.GetFileNameWithoutExtension(path);

        // A key stands for a file beside the table or in img2dataset's folder of the table's name.
        string? Find(string name) => find(name) ?? (name.Contains('.') ? null : SampleGroups.PictureExtensions
            .SelectMany(extension => new[] { $"{stem}/{name}.{extension}", $"{name}.{extension}" }).Select(find).FirstOrDefault(found => found is not null));
        return TableRows.Pairs(Rows(path, reading), Find, reading);
    }

    private static IEnumerable<TableRow> Rows(string path, PairReading reading)
    {
        using FileStream stream = Open(path);
        Try(path, () =>
        {
            ParquetCheck.Run(stream);
            return true;
        });
        ParquetReader reader = Try(path, () => InTime(stream.Length, () => ParquetReader.CreateAsync(stream).GetAwaiter().GetResult()));
        try
        {
            DataField[] fields = Try(path, () => reader.Schema.GetDataFields());
            DataField? Column(IEnumerable<string> names, Func<DataField, bool> fits) => names
                .SelectMany(name => fields.Where(field => string.Equals(field.Path.ToString().Replace('/', '.'), name, StringComparison.OrdinalIgnoreCase) && fits(field)))
                .FirstOrDefault();
            DataField? picture = Column(PictureColumns, field => IsBytes(field) && !IsText(field));
            DataField? file = Column(["key"], _ => picture is null && fields.Any(field => field.Name == "status")) ?? Column([.. TableRows.FileColumns, "image.path", "key"], IsBytes);
            DataField? text = Column(TableRows.TextColumns, IsBytes), status = Column(["status"], IsBytes);
            if (text is null || (picture is null && file is null))
            {
                throw new InputException(
                    $"{path} has the columns {FileErrors.Show(string.Join(", ", fields.Select(field => field.Path)))}; a caption ({string.Join(" or ", TableRows.TextColumns)}) and a picture or the name of its file are needed.");
            }

            long number = 0;
            for (int group = 0; group < reader.RowGroupCount; group++)
            {
                int at = group;
                using ParquetRowGroupReader rows = Try(path, () => reader.OpenRowGroupReader(at));
                byte[]?[] Read(DataField? field) => field is null ? [] : Try(path, () => InTime(stream.Length, () => Values(path, rows, field)));
                byte[]?[] files = Read(file), texts = Read(text), states = Read(status), pictures = Read(picture);
                for (int i = 0; i < texts.Length; i++)
                {
                    reading.Fraction = (at + ((double)i / texts.Length)) / reader.RowGroupCount;
                    number++;
                    yield return Row($"row {number}", number, files, texts, states, pictures, i);
                }
            }
        }
        finally
        {
            reader.DisposeAsync().AsTask().GetAwaiter().GetResult();
        }
    }

    private static TableRow Row(string place, long number, byte[]?[] files, byte[]?[] texts, byte[]?[] states, byte[]?[] pictures, int i)
    {
        if (states.ElementAtOrDefault(i) is { } state && !state.AsSpan().SequenceEqual("success"u8))
        {
            return TableRow.Dropped(DropReason.MissingPicture, Key() ?? place, $"its status is {FileErrors.Show(SampleGroups.Decode(state) ?? "not UTF-8")}");
        }

        string? Key() => files.ElementAtOrDefault(i) is { Length: > 0 } name ? SampleGroups.Decode(name) : null;
        byte[]? bytes = pictures.ElementAtOrDefault(i);
        if (files.ElementAtOrDefault(i) is { Length: > 0 } && Key() is null)
        {
            return TableRow.Dropped(DropReason.BadUtf8, place);
        }

        // Pictures in the table need no name, and their names, if any, need not differ.
        string? key = pictures.Length > 0 ? $"{number - 1}" + (Key() is { } named ? $" {named}" : "") : Key();
        if (key is null || (pictures.Length > 0 && bytes is not { Length: > 0 }))
        {
            return TableRow.Dropped(DropReason.MissingPicture, key ?? place);
        }

        string? caption = texts[i] is { } text ? SampleGroups.Decode(text) : "";
        return caption is null ? TableRow.Dropped(DropReason.BadUtf8, key)
            : new TableRow(key, caption.Trim().Length > 0 ? [caption.Trim()] : [], null, bytes is null ? null : new EncodedPicture(bytes));
    }

    private static bool IsBytes(DataField field) => field is { IsArray: false, MaxRepetitionLevel: 0 } && (field.ClrType == typeof(string) || field.ClrType == typeof(byte[])
        || field.ClrType == typeof(ReadOnlyMemory<byte>) || field.ClrType == typeof(ReadOnlyMemory<char>));

    private static bool IsText(DataField field) => field.ClrType == typeof(string) || field.ClrType == typeof(ReadOnlyMemory<char>);

    private static byte[]?[] Values(string path, ParquetRowGroupReader rows, DataField field)
    {
        long claimed = rows.GetMetadata(field)?.MetaData?.TotalUncompressedSize ?? 0;
        if (claimed > MostColumn || rows.RowCount > int.MaxValue || rows.RowCount < 0)
        {
            throw new InputException($"{path}: a row group claims {claimed:N0} bytes and {rows.RowCount:N0} rows in its column {field.Path}; at most {MostColumn:N0} bytes are read.");
        }

        // The library puts U+FFFD where bytes are no UTF-8: such a text counts as what it was.
        return IsText(field)
            ? Placed<ReadOnlyMemory<char>>(rows, field, text => text.Span.Contains('\uFFFD') ? NotUtf8 : Encoding.UTF8.GetBytes(text.Span.ToArray()))
            : Placed<ReadOnlyMemory<byte>>(rows, field, bytes => bytes.ToArray());
    }

    /// <summary>A column's values, each in its row: the library gives those that are there one after the other, and the levels that say where.</summary>
    private static byte[]?[] Placed<T>(ParquetRowGroupReader rows, DataField field, Func<T, byte[]> bytes)
        where T : struct
    {
        using RawColumnData read = rows.ReadRawColumnDataBaseAsync(field).AsTask().GetAwaiter().GetResult();
        RawColumnData<T> raw = (RawColumnData<T>)read;
        ReadOnlySpan<T> values = raw.Values;
        ReadOnlySpan<int> levels = raw.DefinitionLevels;
        byte[]?[] placed = new byte[rows.RowCount][];
        int next = 0;
        for (int i = 0; i < placed.Length; i++)
        {
            if (field.MaxDefinitionLevel == 0 || levels[i] == field.MaxDefinitionLevel)
            {
                placed[i] = bytes(values[next++]);
            }
        }

        return placed;
    }

    private static FileStream Open(string path)
    {
        try
        {
            return new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.Read, 1 << 16);
        }
        catch (Exception e) when (FileErrors.Explain(e, path) is { } refusal)
        {
            throw refusal;
        }
    }

    /// <summary>
    /// The library goes round for ever over some damaged pages. A minute and a second for each megabyte is far more than it needs for a
    /// whole file; a thread that is not back by then is left behind.
    /// </summary>
    private static T InTime<T>(long bytes, Func<T> work)
    {
        T? result = default;
        Exception? failure = null;
        Thread thread = new(() =>
        {
            try
            {
                result = work();
            }
            catch (Exception e)
            {
                failure = e;
            }
        })
        {
            IsBackground = true,
            Name = "parquet",
        };
        thread.Start();
        if (!thread.Join(TimeSpan.FromSeconds(Patience + (bytes / 1e6))))
        {
            throw new InvalidDataException("it is damaged: reading it does not come to an end");
        }

        return failure is InputException ? throw failure : failure is not null ? throw new InvalidDataException(failure.Message, failure) : result!;
    }

    /// <summary>What the library makes of a damaged file is any exception at all.</summary>
    private static T Try<T>(string path, Func<T> work)
    {
        try
        {
            return work();
        }
        catch (Exception e) when (e is not InputException)
        {
            throw new InputException($"{path} is no Parquet table that can be read: {e.Message}", e);
        }
    }
}
