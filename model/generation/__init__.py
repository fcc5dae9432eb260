"""Text generation in a child process: settings, protocol, the two engines and the client."""
