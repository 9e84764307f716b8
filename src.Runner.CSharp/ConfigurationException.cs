namespace Hybrid.Runner;

/// <summary>A configuration that cannot be used, in sentences that name every key that is wrong: exit code 2.</summary>
public sealed class ConfigurationException(string message) : InputException(message);
