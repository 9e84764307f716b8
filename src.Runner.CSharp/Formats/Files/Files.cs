using System.Text;
using Hybrid.Runner.Formats;

namespace Hybrid.Runner;

/// <summary>Reading files, with sentences for what goes wrong.</summary>
internal static class Files
{
    /// <summary>
    /// Keeps others out by a file that only one process can hold; the system lets go of it when the process ends, however it ends. Errors:
    /// InputException with the sentence given where another one holds it.
    /// </summary>
    public static FileStream Alone(string path, string taken)
    {
        try
        {
            return new FileStream(path, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None, 1, FileOptions.DeleteOnClose);
        }
        catch (IOException error) when (File.Exists(path))
        {
            throw new InputException(taken, error);
        }
    }

    /// <summary>A file's bytes. Errors: InputException.</summary>
    public static byte[] Bytes(string path)
    {
        try
        {
            return File.ReadAllBytes(path);
        }
        catch (Exception error) when (FileErrors.Explain(error, path) is { } refusal)
        {
            throw refusal;
        }
    }

    /// <summary>SHA-256 of a file, in lower-case hexadecimal. Errors: InputException.</summary>
    public static string Sha256(string path)
    {
        try
        {
            return FileMark.Of(path).Sha256!;
        }
        catch (Exception error) when (FileErrors.Explain(error, path) is { } refusal)
        {
            throw refusal;
        }
    }

    /// <summary>A file's text. Errors: InputException saying what the file was wanted for.</summary>
    public static string Text(string path, string what)
    {
        try
        {
            return File.ReadAllText(path);
        }
        catch (Exception error) when (error is FileNotFoundException or DirectoryNotFoundException)
        {
            throw new InputException($"{what} is not there: {path}.", error);
        }
        catch (UnauthorizedAccessException error) when (Directory.Exists(path))
        {
            throw new InputException($"{what} cannot be read: {path} is a directory; a file is wanted.", error);
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            throw new InputException($"{what} cannot be read: {error.Message}", error);
        }
    }

    /// <summary>
    /// A text to the last character: a byte order mark and line ends are kept. Errors: InputException where it cannot be read, is not
    /// UTF-8, or is longer than a string can be.
    /// </summary>
    public static string ExactText(string path, string what)
    {
        byte[] bytes;
        try
        {
            bytes = File.ReadAllBytes(path);
            if (bytes.Length <= 1_000_000_000)
            {
                return new UTF8Encoding(false, throwOnInvalidBytes: true).GetString(bytes);
            }
        }
        catch (DecoderFallbackException error)
        {
            throw new InputException($"{what} is not UTF-8: {path}, at the byte with the offset {error.Index}. Save it as UTF-8.", error);
        }
        catch (Exception error) when (FileErrors.Explain(error, path) is { } refusal)
        {
            throw refusal;
        }

        throw new InputException($"{what} is too long: {path} has {bytes.Length} bytes. Split it.");
    }

    /// <summary>Whether a directory exists and holds anything.</summary>
    public static bool Occupied(string directory) => Directory.Exists(directory) && Directory.EnumerateFileSystemEntries(directory).Any();

    /// <summary>Refuses a target that is a file, or a directory that holds anything; <paramref name="option"/> names another.</summary>
    public static void RequireFree(string path, string option)
    {
        if (Occupied(path) || File.Exists(path))
        {
            throw new InputException($"{path} is not empty; choose another {option}.");
        }
    }
}
