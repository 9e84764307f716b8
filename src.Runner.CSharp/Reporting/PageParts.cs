using System.Reflection;
using System.Security.Cryptography;
using System.Text;

namespace Hybrid.Runner.Reporting;

/// <summary>The style and the script that every page carries inside it.</summary>
internal static class PageParts
{
    private static readonly Lazy<string> script = new(() =>
        "(() => {\n\"use strict\";\n" + string.Concat(new[] { "drawing", "curves", "points", "figures", "live" }.Select(name => Resource(name + ".js"))) + "})();\n");

    private static readonly Lazy<string> style = new(() => Theme.Css(":root") + Resource("page.css"));

    /// <summary>The script: one function, run when the page has been read.</summary>
    public static string Script => script.Value;

    public static string Style => style.Value;

    /// <summary>
    /// What a browser may do for the page: run this script and no other, show pictures that are in it, and load nothing; a page that is served
    /// may ask its own server.
    /// </summary>
    public static string Policy(bool live) =>
        $"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{Convert.ToBase64String(SHA256.HashData(Encoding.UTF8.GetBytes(Script)))}'; base-uri 'none'; form-action 'none'"
        + (live ? "; connect-src 'self'" : "");

    // Line ends are those that a browser makes of them before it hashes a script.
    private static string Resource(string name)
    {
        using Stream stream = Assembly.GetExecutingAssembly().GetManifestResourceStream(name)
            ?? throw new InvalidOperationException($"The program was built without {name}.");
        using StreamReader reader = new(stream);
        return reader.ReadToEnd().ReplaceLineEndings("\n");
    }
}
