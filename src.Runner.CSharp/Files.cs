namespace Hybrid.Runner;

/// <summary>Reading small files, with sentences for what goes wrong.</summary>
internal static class Files
{
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

    /// <summary>Whether a directory exists and holds anything.</summary>
    public static bool Occupied(string directory) => Directory.Exists(directory) && Directory.EnumerateFileSystemEntries(directory).Any();
}
